"""How widely a map is spread, and whether two maps agree."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from abn.metrics.inputs import as_float_maps, stretched


def entropy(attention_maps: Tensor) -> Tensor:
    """How widely the map is spread: its entropy as a distribution over its pixels, 1 for a flat map.

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w), at least 0.

    Returns:
        (B,), in [0, 1]: -Σ p log p / log(h · w). It depends a little on the map's resolution.

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
    one, other = (stretched(maps) >= threshold for maps in _alike(attention_maps, others))
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
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to).float() / 2


def _alike(attention_maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    one, other = as_float_maps(attention_maps), as_float_maps(others)
    if one.shape != other.shape:
        raise ValueError(
            f"maps have shapes {tuple(attention_maps.shape)} and {tuple(others.shape)}, expected the same: "
            "resize one of them"
        )
    return one, other
