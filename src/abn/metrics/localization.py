"""Compares where a map points with where the object is."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from abn.metrics.inputs import as_float_maps, match_images
from abn.modules.inputs import check_range, with_channel


def box_masks(boxes: Tensor | Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Makes masks of the pixels that lie in boxes.

    Args:
        boxes: (B, 4), or for each image (N, 4), where N may be 0: x1, y1, x2, y2 in pixels. As in
            torchvision, x2 and y2 lie just outside the box.
        size: (H, W) of the images.

    Returns:
        (B, H, W), bool: True where any box of the image is.

    Raises:
        ValueError: If the boxes have another shape, or seem to be shares of the image instead of pixels.

    Example:
        >>> box_masks(torch.tensor([[1, 0, 3, 2]]), size=(2, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
    """
    masks = []
    for image_boxes in boxes:
        if image_boxes.ndim > 2 or image_boxes.shape[-1] != 4:
            raise ValueError(f"an image has boxes {tuple(image_boxes.shape)}, expected (4,) or (N, 4)")
        if (
            image_boxes.is_floating_point()
            and image_boxes.numel()
            and image_boxes.max() <= 1
            and (image_boxes % 1).any()
        ):
            raise ValueError(
                f"an image has boxes up to {image_boxes.max():.3g}, expected pixels: multiply shares of the "
                f"image by its width and height, boxes * torch.tensor([{size[1]}, {size[0]}] * 2)"
            )
        x1, y1, x2, y2 = image_boxes.reshape(-1, 4, 1, 1).unbind(1)  # (N, 1, 1) each
        y = torch.arange(size[0], device=image_boxes.device)[:, None]
        x = torch.arange(size[1], device=image_boxes.device)
        masks.append(((x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)).any(0))  # (H, W)
    return torch.stack(masks)


def pointing_game(attention_maps: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """Tells whether the map's highest point lies on the object.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.2, use a tolerance
    of 15 pixels, and take the mean per class, then over classes. Where several points are equally high, each
    counts for its share. So a flat map scores as chance would.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        masks: The object's pixels, (B, 1, H, W) or (B, H, W): bool, or floating point from 0 to 1, where
            values above one half count as the object.
        tolerance: Distance from the object, in pixels of the mask, that still counts as a hit.

    Returns:
        (B,): 1 for a hit, 0 for a miss, in between for a tie.

    Raises:
        ValueError: If the shapes do not fit together, the map holds NaN, the masks are neither bool nor
            floating point from 0 to 1, or the tolerance is negative.

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
    """Measures the share of the map that lies on the object.

    Wang et al., "Score-CAM", CVPR Workshops 2020, section 4.3. Negative values of a map count as 0 (as in
    Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations", ICCV 2023), and
    a map that is 0 everywhere scores 0.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        masks: The object's pixels, (B, 1, H, W) or (B, H, W): bool, or floating point from 0 to 1, where
            values above one half count as the object.

    Returns:
        (B,), in [0, 1].

    Raises:
        ValueError: If the shapes do not fit together, the map holds NaN, or the masks are neither bool nor
            floating point from 0 to 1.
    """
    maps, masks = _on_masks(attention_maps, masks)
    maps = maps.clamp(min=0)
    total = maps.sum(dim=(1, 2, 3))
    return (maps * masks).sum(dim=(1, 2, 3)) / total.clamp(min=torch.finfo(total.dtype).tiny)


def _on_masks(attention_maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns maps and masks as float32 (B, 1, H, W), in the resolution of the masks."""
    masks = with_channel(masks, "masks")
    check_range(masks, "mask")
    return match_images(as_float_maps(attention_maps), masks), (masks > 0.5).float()
