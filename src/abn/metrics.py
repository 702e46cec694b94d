"""How good an explanation is: where its map points, what the network makes of it, and whether it is stable.

All functions take any maps, ABN's or another method's, and return one value per image, so that a mean, a
worst case or a list of failures is up to the caller::

    energy_pointing_game(model(images).attention_map, box_masks(boxes, size=(224, 224))).mean()

Maps are (B, 1, h, w) or (B, h, w), of any resolution and range; they are enlarged bilinearly where they meet
an image or a mask. What is computed is computed in float32, on the device of the maps.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from abn.maps import resized, with_channel
from abn.network import ABNOutput

Classifier = Callable[[Tensor], Tensor | ABNOutput]
"""Images (B, C, H, W) to logits (B, K), or an ABN, of which the perception branch counts."""


class ConfidenceChange(NamedTuple):
    """What :func:`confidence_change` returns; the mean over images is usually given in %."""

    drop: Tensor
    """Lost share of the class's probability, (B,), in [0, 1]."""
    increase: Tensor
    """Whether the probability rose, (B,), 0 or 1."""


def box_masks(boxes: Tensor | Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Masks of the pixels that lie in boxes.

    Args:
        boxes: (B, 4), or for each image (N, 4), with N from 0: x1, y1, x2, y2 in pixels, of which the last
            two lie just outside, as in torchvision.
        size: (H, W) of the images.

    Returns:
        (B, H, W), bool: where any of the image's boxes is.

    Raises:
        ValueError: If the boxes have another shape.

    Example:
        >>> box_masks(torch.tensor([[1, 0, 3, 2]]), size=(2, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
    """
    masks = []
    for image_boxes in boxes:
        if image_boxes.ndim > 2 or image_boxes.shape[-1] != 4:
            raise ValueError(f"an image has boxes {tuple(image_boxes.shape)}, expected (4,) or (N, 4)")
        x1, y1, x2, y2 = image_boxes.reshape(-1, 4, 1, 1).unbind(1)  # (N, 1, 1) each
        y = torch.arange(size[0], device=image_boxes.device)[:, None]
        x = torch.arange(size[1], device=image_boxes.device)
        masks.append(((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).any(0))  # (H, W)
    return torch.stack(masks)


def pointing_game(attention_maps: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """Whether the map's highest point lies on the object.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.2, where the
    tolerance is 15 pixels, and the mean is taken per class, then over classes. Where several points are
    equally high, each counts for its share, so that a flat map scores as chance would.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        masks: The object's pixels, (B, 1, H, W) or (B, H, W), bool.
        tolerance: Distance from the object, in pixels of the mask, that still counts as a hit.

    Returns:
        (B,): 1 for a hit, 0 for a miss, in between for a tie.

    Raises:
        ValueError: If the shapes do not belong together, the map holds NaN, or the tolerance is negative.

    Example:
        >>> diagonal = torch.eye(4)[None]
        >>> pointing_game(diagonal, box_masks(torch.tensor([[0, 0, 2, 4]]), size=(4, 4)))
        tensor([0.5000])
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}, expected at least 0 pixels")
    maps, masks = _on_masks(attention_maps, masks)
    if tolerance:
        reach = torch.arange(-tolerance, tolerance + 1, device=maps.device)
        disc = (reach[:, None] ** 2 + reach**2 <= tolerance**2).float()
        masks = F.conv2d(masks, disc[None, None], padding=tolerance) > 0
    highest = (maps == maps.amax(dim=(2, 3), keepdim=True)).float()
    return (highest * masks).sum(dim=(1, 2, 3)) / highest.sum(dim=(1, 2, 3))


def energy_pointing_game(attention_maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map that lies on the object.

    Wang et al., "Score-CAM", CVPR Workshops 2020, section 4.3. Negative values of a map count as 0 (as in
    Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023), and
    a map that is 0 everywhere scores 0.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        masks: The object's pixels, (B, 1, H, W) or (B, H, W), bool.

    Returns:
        (B,), in [0, 1].

    Raises:
        ValueError: If the shapes do not belong together or the map holds NaN.
    """
    maps, masks = _on_masks(attention_maps, masks)
    maps = maps.clamp(min=0)
    total = maps.sum(dim=(1, 2, 3))
    return (maps * masks).sum(dim=(1, 2, 3)) / total.clamp(min=torch.finfo(total.dtype).tiny)


def deletion(
    model: Classifier,
    images: Tensor,
    attention_maps: Tensor,
    classes: Tensor | None = None,
    *,
    step: int | None = None,
) -> Tensor:
    """Area under the class's probability while pixels are removed, the most important first. Low is good.

    Petsiuk et al., "RISE", BMVC 2018, section 4.2, as in the authors' code: removed pixels become 0, which
    is the mean of normalised images.

    Args:
        model: Images to logits, in evaluation mode; for an ABN the perception branch counts.
        images: (B, C, H, W), as the model takes them.
        attention_maps: (B, 1, h, w) or (B, h, w).
        classes: (B,). Default: the model's own predictions on the whole images.
        step: Number of pixels that are removed at once. Default: W, as many as in a row.

    Returns:
        (B,), in [0, 1]. It takes H · W / step forward passes of the batch.

    Raises:
        ValueError: If the shapes do not belong together, the map holds NaN, the step is below one, or the
            model is in training mode.
    """
    return _area(model, images, torch.zeros_like(images), attention_maps, classes, step, start=images)


def insertion(
    model: Classifier,
    images: Tensor,
    attention_maps: Tensor,
    classes: Tensor | None = None,
    *,
    step: int | None = None,
) -> Tensor:
    """Area under the class's probability while pixels are uncovered, the most important first. High is good.

    Like :func:`deletion`, but starts from the blurred image (a Gaussian of 11 × 11 pixels, σ = 5) and puts
    the sharp pixels back.
    """
    blurred = gaussian_blur(images, kernel_size=[11, 11], sigma=[5.0, 5.0])
    return _area(model, images, images, attention_maps, classes, step, start=blurred)


@torch.no_grad()
def confidence_change(
    model: Classifier, images: Tensor, attention_maps: Tensor, classes: Tensor | None = None
) -> ConfidenceChange:
    """How the class's probability changes when only what the map shows is left of the image.

    The average drop and increase in confidence of Chattopadhay et al., "Grad-CAM++", WACV 2018, section 4.1:
    the image is multiplied with the map, stretched to [0, 1].

    Args:
        model: As in :func:`deletion`.
        images: (B, C, H, W), as the model takes them.
        attention_maps: (B, 1, h, w) or (B, h, w).
        classes: (B,). Default: the model's own predictions on the whole images.

    Raises:
        ValueError: As in :func:`deletion`.
    """
    maps = _fitted(_stretched(attention_maps), images)
    classes = _predicted(model, images) if classes is None else classes
    whole = _probability(model, images, classes)
    shown = _probability(model, images * maps.to(images.dtype), classes)
    return ConfidenceChange((whole - shown).clamp(min=0) / whole, (shown > whole).float())


def entropy(attention_maps: Tensor) -> Tensor:
    """How widely the map is spread: its entropy as a distribution over its pixels, 1 for a flat map.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w), at least 0.

    Returns:
        (B,), in [0, 1]: -Σ p log p / log(h · w). It depends a little on the map's resolution.

    Raises:
        ValueError: If the map has another shape, holds NaN or negative values, or is 0 everywhere.
    """
    values = _maps(attention_maps).flatten(1)
    if values.numel() and (values.min() < 0 or values.sum(1).min() <= 0):
        raise ValueError("a map is negative somewhere or 0 everywhere, expected values of at least 0")
    shares = values / values.sum(1, keepdim=True)
    entropies: Tensor = torch.special.entr(shares).sum(1)
    return entropies / math.log(values.shape[1])


def iou(attention_maps: Tensor, others: Tensor, threshold: float = 100 / 255) -> Tensor:
    """Overlap of two maps' high regions, such as the maps of two runs of the same training.

    Each map is stretched to [0, 1] first. The default threshold is that with which Lee et al., "LFI-CAM",
    ICCV 2021, compare runs of ABN.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        others: Likewise, of the same resolution.
        threshold: From where on a stretched map counts as high.

    Returns:
        (B,), in [0, 1]: intersection over union; 0 where both maps are flat.

    Raises:
        ValueError: If the shapes differ, a map holds NaN, or the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, expected in (0, 1]")
    one, other = (_stretched(maps) >= threshold for maps in _alike(attention_maps, others))
    return (one & other).sum(dim=(1, 2, 3)) / (one | other).sum(dim=(1, 2, 3)).clamp(min=1)


def rank_correlation(attention_maps: Tensor, others: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps over their pixels; ties have their mean rank.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        others: Likewise, of the same resolution.

    Returns:
        (B,), in [-1, 1]: 1 if both put the pixels in the same order; 0 where a map is flat.

    Raises:
        ValueError: If the shapes differ or a map holds NaN.
    """
    one, other = (_ranks(maps.flatten(1)) for maps in _alike(attention_maps, others))
    return F.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True))


def _ranks(values: Tensor) -> Tensor:
    """Mean rank of each value in its row, (B, N)."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to).float() / 2


@torch.no_grad()
def _area(
    model: Classifier,
    images: Tensor,
    end: Tensor,
    attention_maps: Tensor,
    classes: Tensor | None,
    step: int | None,
    start: Tensor,
) -> Tensor:
    """Area under the class's probability from ``start`` to ``end``, the highest pixels of the map first."""
    step = images.shape[-1] if step is None else step
    if step < 1:
        raise ValueError(f"step is {step}, expected at least 1 pixel")
    ranks = _fitted(_maps(attention_maps), images).flatten(1).argsort(descending=True, stable=True).argsort()
    ranks = ranks.view(len(images), 1, *images.shape[-2:])  # 0 for the highest point
    classes = _predicted(model, images) if classes is None else classes
    pixels = images.shape[-2] * images.shape[-1]
    done = [*range(0, pixels, step), pixels]
    curve = [_probability(model, torch.where(ranks < count, end, start), classes) for count in done]
    shares = torch.tensor(done, device=images.device) / pixels
    return torch.trapezoid(torch.stack(curve), shares, dim=0)


def _logits(model: Classifier, images: Tensor) -> Tensor:
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode, in which images influence each other: model.eval()")
    output = model(images)
    return (output.perception_logits if isinstance(output, ABNOutput) else output).float()


def _predicted(model: Classifier, images: Tensor) -> Tensor:
    return _logits(model, images).argmax(dim=1)


def _probability(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Softmax probability of one class per image, (B,)."""
    return _logits(model, images).softmax(dim=1).gather(1, classes[:, None])[:, 0]


def _maps(attention_maps: Tensor) -> Tensor:
    """The maps as float32 (B, 1, h, w)."""
    maps = with_channel(attention_maps)
    if maps.isnan().any():
        raise ValueError("a map holds NaN, expected numbers: look for the cause in the network or its images")
    return maps.float()


def _alike(attention_maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    one, other = _maps(attention_maps), _maps(others)
    if one.shape != other.shape:
        raise ValueError(
            f"maps have shapes {tuple(attention_maps.shape)} and {tuple(others.shape)}, expected the same: "
            "resize one of them"
        )
    return one, other


def _stretched(attention_maps: Tensor) -> Tensor:
    """Each map stretched to [0, 1]; a flat one is 0."""
    maps = _maps(attention_maps)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def _fitted(maps: Tensor, like: Tensor) -> Tensor:
    """The maps (B, 1, h, w) in the resolution of images or masks (B, C, H, W)."""
    if like.ndim != 4 or len(like) != len(maps):
        raise ValueError(
            f"got maps for {len(maps)} images and images or masks of shape {tuple(like.shape)}, expected "
            "(B, C, H, W) with one map each"
        )
    return resized(maps, (like.shape[-2], like.shape[-1]))


def _on_masks(attention_maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks as float (B, 1, H, W)."""
    masks = masks.unsqueeze(1) if masks.ndim == 3 else masks
    return _fitted(_maps(attention_maps), masks), masks.float()
