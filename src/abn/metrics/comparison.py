"""Measures how widely a map is spread, and how well two maps agree."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from abn.metrics.inputs import as_float_maps, stretched


def entropy(attention_maps: Tensor) -> Tensor:
    """Measures how widely a map is spread: its entropy as a distribution over its pixels, 1 for a flat map.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w), at least 0.

    Returns:
        (B,), in [0, 1]: -Σ p log p / log(h · w). The value depends a little on the map's resolution.

    Raises:
        ValueError: If the map has another shape, holds NaN or negative values, or is 0 everywhere.
    """
    values = as_float_maps(attention_maps).flatten(1)
    if values.numel() and (values.min() < 0 or values.sum(1).min() <= 0):
        raise ValueError("a map is negative somewhere or 0 everywhere, expected values of at least 0")
    shares = values / values.sum(1, keepdim=True)
    entropies: Tensor = torch.special.entr(shares).sum(1)
    return entropies / math.log(values.shape[1])


def iou(attention_maps: Tensor, others: Tensor, threshold: float = 100 / 255) -> Tensor:
    """Measures the overlap of the high regions of two maps, such as maps from two runs of one training.

    Each map is stretched to [0, 1] first. Lee et al., "LFI-CAM", ICCV 2021, compare runs of ABN with the
    default threshold.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        others: Maps to compare with, (B, 1, h, w) or (B, h, w), of equal resolution.
        threshold: Smallest value of a stretched map that counts as high.

    Returns:
        (B,), in [0, 1]: intersection over union; 0 where both maps are flat.

    Raises:
        ValueError: If the shapes differ, a map holds NaN, or the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, expected in (0, 1]")
    first, second = (stretched(maps) >= threshold for maps in _float_pair(attention_maps, others))
    return (first & second).sum(dim=(1, 2, 3)) / (first | second).sum(dim=(1, 2, 3)).clamp(min=1)


def rank_correlation(attention_maps: Tensor, others: Tensor) -> Tensor:
    """Computes Spearman's rank correlation of two maps over their pixels. Equal values share their mean rank.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        others: Maps to compare with, (B, 1, h, w) or (B, h, w), of equal resolution.

    Returns:
        (B,), in [-1, 1]: 1 if both maps put the pixels in the same order; 0 where a map is flat.

    Raises:
        ValueError: If the shapes differ or a map holds NaN.
    """
    first, second = (_ranks(maps.flatten(1)) for maps in _float_pair(attention_maps, others))
    return F.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True))


def _ranks(values: Tensor) -> Tensor:
    """Returns the rank of each value in its row, (B, N). Equal values share their mean rank."""
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to).float() / 2


def _float_pair(attention_maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both maps as float32 (B, 1, h, w). Raises a ValueError if their shapes differ."""
    first, second = as_float_maps(attention_maps), as_float_maps(others)
    if first.shape != second.shape:
        raise ValueError(
            f"maps have shapes {tuple(attention_maps.shape)} and {tuple(others.shape)}, expected the same: "
            "resize one of them"
        )
    return first, second
