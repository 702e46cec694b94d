"""Brings the arguments of the metrics into one form: maps, and images or masks of their resolution."""

import torch
from torch import Tensor

from abn.modules.inputs import resize_maps, with_channel


def as_float_maps(attention_maps: Tensor) -> Tensor:
    """Returns the maps as float32 (B, 1, h, w). Raises a ValueError if a map holds NaN."""
    maps = with_channel(attention_maps)
    if maps.isnan().any():
        raise ValueError("a map holds NaN, expected numbers: look for the cause in the network or its images")
    return maps.float()


def stretched(attention_maps: Tensor) -> Tensor:
    """Stretches each map to [0, 1]. A flat map becomes 0."""
    maps = as_float_maps(attention_maps)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def match_images(maps: Tensor, like: Tensor) -> Tensor:
    """Resizes maps (B, 1, h, w) to the resolution of images or masks (B, C, H, W)."""
    if like.ndim != 4 or len(like) != len(maps):
        raise ValueError(
            f"got maps for {len(maps)} images and images or masks of shape {tuple(like.shape)}, expected "
            "(B, C, H, W) with one map each"
        )
    return resize_maps(maps, (like.shape[-2], like.shape[-1]))
