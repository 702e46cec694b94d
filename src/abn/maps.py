"""Shape and resolution of attention maps."""

from torch import Tensor
from torch.nn import functional as F


def with_channel(attention_maps: Tensor, name: str = "attention_map") -> Tensor:
    """The maps as (B, 1, h, w).

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        name: Of the argument, for the error.

    Raises:
        ValueError: If the maps have another shape.
    """
    maps = attention_maps.unsqueeze(1) if attention_maps.ndim == 3 else attention_maps
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise ValueError(
            f"{name} has shape {tuple(attention_maps.shape)}, expected (B, 1, h, w) or (B, h, w)"
        )
    return maps


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, 1, h, w) in another resolution, bilinearly, in float32; as they are if they have it."""
    if maps.shape[-2:] == size:
        return maps
    shrinking = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    return F.interpolate(maps.float(), size=size, mode="bilinear", antialias=shrinking)
