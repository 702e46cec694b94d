"""Shape, resolution and range of attention maps and masks."""

import torch
from torch import Tensor
from torch.nn import functional as F


def fitted(attention_maps: Tensor, features: Tensor, tasks: int = 1) -> Tensor:
    """The maps (B or 1, T or 1, H, W) in the resolution and dtype of features (B, C, H, W).

    Args:
        attention_maps: (B, T, h, w), where B and T may be 1 for one map for all images or tasks; or
            (B, h, w), for all tasks.
        features: (B, C, H, W).
        tasks: Number of tasks T.

    Raises:
        ValueError: If the maps have another shape, or hold whole numbers.
    """
    check_kind(attention_maps, "attention_map")
    batch, *_, height, width = features.shape
    maps = attention_maps.unsqueeze(1) if attention_maps.ndim == 3 else attention_maps
    # No len(): torch.export would fix the size of the batch.
    fits = maps.ndim == 4 and maps.shape[0] in (1, batch) and maps.shape[1] in (1, tasks)
    if not fits or 0 in maps.shape[2:]:
        several = f"(B, {tasks}, h, w), " if tasks > 1 else ""
        raise ValueError(
            f"attention_map has shape {tuple(attention_maps.shape)}, expected {several}(B, 1, h, w) or "
            f"(B, h, w) with B = {batch} like the images, or B = 1 to use one map for all of them"
        )
    return resized(maps, (height, width)).to(features.dtype)


def with_channel(attention_maps: Tensor, name: str = "attention_map") -> Tensor:
    """The maps as (B, 1, h, w).

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        name: Of the argument, for the error.

    Raises:
        TypeError: If the maps are no tensor.
        ValueError: If the maps have another shape.
    """
    _check_tensor(attention_maps, name)
    maps = attention_maps.unsqueeze(1) if attention_maps.ndim == 3 else attention_maps
    if maps.ndim != 4 or maps.shape[1] != 1 or 0 in maps.shape[2:]:
        raise ValueError(
            f"{name} has shape {tuple(attention_maps.shape)}, expected (B, 1, h, w) or (B, h, w); of several "
            "tasks take one, [:, task], or all as if of more images, .flatten(0, 1)"
        )
    return maps


def check_kind(values: Tensor, name: str) -> None:
    """Raises an error if a map or mask is no tensor, or of whole numbers: neither floating point nor bool.

    Those of a mask may be 0 and 255, or the numbers of classes.
    """
    _check_tensor(values, name)
    if not values.is_floating_point() and values.dtype != torch.bool:
        raise ValueError(
            f"{name} is {values.dtype}, expected bool, or floating point from 0 to 1: compare a mask with a "
            "number, mask > 0, or divide it by its highest, mask / 255"
        )


def _check_tensor(values: object, name: str) -> None:
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise TypeError(f"{name} is a {kind}, expected a tensor, such as of torch.from_numpy()")


def check_range(values: Tensor, name: str) -> None:
    """Raises a ValueError unless a map or mask lies between 0 and 1, see :func:`in_range`."""
    check_kind(values, name)
    if not in_range(values):
        raise ValueError(
            f"{name} goes from {values.min():.4g} to {values.max():.4g}, expected values from 0 to 1: divide "
            "it by its highest, or cut off what is beyond with clamp(0, 1)"
        )


def in_range(values: Tensor) -> bool:
    """Whether values on the CPU lie between 0 and 1, but for rounding; not so with NaN.

    Elsewhere every call would wait for the device, and a compiler cannot tell: others are taken to do so.
    """
    if (
        torch.compiler.is_compiling()
        or values.device.type != "cpu"
        or values.dtype == torch.bool
        or not values.numel()
    ):
        return True
    low, high = values.detach().aminmax()
    try:
        return bool((low >= -1e-3) & (high <= 1.001))
    except RuntimeError:  # under vmap, or with fake tensors, there are no values to look at
        return True


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, T, h, w) in another resolution, bilinearly, in float32; as they are if they have it."""
    if maps.shape[-2:] == size:
        return maps
    if maps.shape[-2:] == (1, 1):  # interpolated, a 1 would be off by rounding
        return maps.expand(-1, -1, *size)
    shrinking = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    return F.interpolate(maps.float(), size=size, mode="bilinear", antialias=shrinking)
