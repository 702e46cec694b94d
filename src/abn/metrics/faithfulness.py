"""Measures how predictions change when an image loses, or keeps only, the pixels that a map points at."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from abn.metrics.inputs import as_float_maps, match_images, stretched
from abn.network import ABNOutput

Classifier = Callable[[Tensor], Tensor | ABNOutput]
"""Takes images (B, C, H, W) and returns logits (B, K). Of an ABN the perception logits are used."""


class ConfidenceChange(NamedTuple):
    """Results of :func:`confidence_change`. Papers usually give the mean over the images, in %."""

    drop: Tensor
    """Share of the class's probability that is lost, (B,), in [0, 1]."""
    increase: Tensor
    """Whether the probability rose, (B,), 0 or 1."""


def deletion(
    model: Classifier,
    images: Tensor,
    attention_maps: Tensor,
    classes: Tensor | None = None,
    *,
    step: int | None = None,
) -> Tensor:
    """Computes the area under the curve of the class's probability while pixels are removed. Low is good.

    The pixels where the map is highest are removed first (Petsiuk et al., "RISE", BMVC 2018, section 4.2).
    As in the authors' code, removed pixels become 0, which is the mean of normalised images.

    Args:
        model: Takes images and returns logits; in evaluation mode. Of an ABN the perception logits are used.
        images: (B, C, H, W), preprocessed for the model.
        attention_maps: (B, 1, h, w) or (B, h, w).
        classes: (B,), int64. Default: the model's own predictions on the whole images.
        step: Number of pixels that are removed at once. Default: W, the pixels of one row.

    Returns:
        (B,), in [0, 1]. The function takes H · W / step forward passes of the batch.

    Raises:
        ValueError: If the shapes do not fit together, the map holds NaN, there is not one class for each
            image, the step is below one, or the model is in training mode.
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
    """Computes the area under the curve of the class's probability while pixels are restored. High is good.

    Like :func:`deletion`, but starts from the blurred image (a Gaussian of 11 × 11 pixels, σ = 5) and puts
    back the sharp pixels, first where the map is highest.
    """
    blurred = gaussian_blur(images, kernel_size=[11, 11], sigma=[5.0, 5.0])
    return _area(model, images, images, attention_maps, classes, step, start=blurred)


@torch.no_grad()
def confidence_change(
    model: Classifier, images: Tensor, attention_maps: Tensor, classes: Tensor | None = None
) -> ConfidenceChange:
    """Measures how the class's probability changes when only what the map shows is left of the image.

    The average drop and increase in confidence of Chattopadhay et al., "Grad-CAM++", WACV 2018, section 4.1.
    The image is multiplied with the map, which is stretched to [0, 1] first.

    Args:
        model: As in :func:`deletion`.
        images: (B, C, H, W), preprocessed for the model.
        attention_maps: (B, 1, h, w) or (B, h, w).
        classes: (B,), int64. Default: the model's own predictions on the whole images.

    Raises:
        ValueError: As in :func:`deletion`.
    """
    maps = match_images(stretched(attention_maps), images)
    classes = _classes(model, images, classes)
    whole = _probability(model, images, classes)
    shown = _probability(model, images * maps.to(images.dtype), classes)
    lost = (whole - shown).clamp(min=0) / whole.clamp(min=torch.finfo(whole.dtype).tiny)
    return ConfidenceChange(lost, (shown > whole).float())


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
    """Computes the area under the curve of the class's probability from image ``start`` to image ``end``.

    The pixels of ``start`` are replaced by the pixels of ``end``, first where the map is highest.
    """
    step = images.shape[-1] if step is None else step
    if step < 1:
        raise ValueError(f"step is {step}, expected at least 1 pixel")
    ranks = (
        match_images(as_float_maps(attention_maps), images)
        .flatten(1)
        .argsort(descending=True, stable=True)
        .argsort()
    )
    ranks = ranks.view(len(images), 1, *images.shape[-2:])  # 0 for the highest pixel
    classes = _classes(model, images, classes)
    pixels = images.shape[-2] * images.shape[-1]
    counts = [*range(0, pixels, step), pixels]
    curve = [_probability(model, torch.where(ranks < count, end, start), classes) for count in counts]
    shares = torch.tensor(counts, device=images.device) / pixels
    return torch.trapezoid(torch.stack(curve), shares, dim=0)


def _classes(model: Classifier, images: Tensor, classes: Tensor | None) -> Tensor:
    """Returns the given classes, checked to be one int64 per image, or the predicted classes if None."""
    if classes is None:
        return _logits(model, images).argmax(dim=1)
    if not isinstance(classes, Tensor) or classes.shape != images.shape[:1] or classes.dtype != torch.long:
        raise ValueError(
            f"classes are {classes!r}, expected a tensor of int64, one for each of {len(images)} images"
        )
    return classes


def _probability(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Returns the softmax probability of one class per image, (B,)."""
    return _logits(model, images).softmax(dim=1).gather(1, classes[:, None])[:, 0]


def _logits(model: Classifier, images: Tensor) -> Tensor:
    """Returns the model's logits (B, K) in float32, checked to be of several classes and of one task."""
    if getattr(model, "training", False):
        raise ValueError("the model is in training mode, in which images influence each other: model.eval()")
    output = model(images)
    logits = output.perception_logits if isinstance(output, ABNOutput) else output
    several = isinstance(output, ABNOutput) and output.attention_map.shape[1] > 1
    if several or logits.ndim != 2 or logits.shape[1] == 1:
        raise ValueError(
            f"the model returns {tuple(logits.shape)}{', of several tasks' if several else ''}, expected the "
            "logits (B, K) of several classes: hand over a function that makes them of one task, such as "
            "lambda images: F.pad(model(images).perception_logits[:, task : task + 1], (1, 0)), no and yes"
        )
    return logits.float()
