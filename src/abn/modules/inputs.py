"""Checks the arguments of networks, losses and metrics: numbers, images, features, maps and masks.

Each error names what was given, what was expected, and what to do.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def check_counts(**counts: int | None) -> None:
    """Raises a ValueError unless each count is None or a positive integer."""
    for name, value in counts.items():
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not is_number or value < 1):
            raise ValueError(f"{name} is {value!r}, expected a number of at least 1")


def check_images(images: Tensor) -> None:
    """Raises an error unless the images are a batch (B, C, H, W) in floating point, all finite."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images are a {type(images).__name__}, expected a tensor (B, C, H, W), such as of "
            "torch.from_numpy() or torch.stack()"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}, expected floating point: scale and normalise them as in training, "
            "for example with the transforms that came with the backbone's weights"
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, expected (B, C, H, W): "
            "add the batch dimension with images.unsqueeze(0)"
        )
    if not _are_finite(images):
        faulty = ~images.isfinite().flatten(1).all(1)
        raise ValueError(
            f"{int(faulty.sum())} of {len(images)} images hold NaN or infinite values, expected finite ones: "
            "look at how they were decoded and normalised (a standard deviation of 0?)"
        )


def _are_finite(images: Tensor) -> bool:
    """Tells whether images are finite. True off the CPU, where every call would wait for the device."""
    if images.device.type != "cpu":
        return True
    try:
        # The sum takes a twentieth of the time of isfinite(). It is finite if all images are, but may
        # overflow in half precision, so that only isfinite() is sure.
        return bool(images.sum().isfinite()) or bool(images.isfinite().all())
    except RuntimeError:  # under vmap, or with fake tensors, there are no values to look at
        return True


def explain_failure(
    images: Tensor, channels: int | None, dtype: torch.dtype | None, error: RuntimeError
) -> None:
    """Raises an error that names the cause if a network failed on images of the wrong channels or type.

    Args:
        images: Images (B, C, H, W) on which the network failed.
        channels: Number of channels that the network was made for, if known.
        dtype: Type of the network's first weight, if the network has weights.
        error: The error with which the network failed.
    """
    shape = tuple(images.shape)
    if channels not in (None, shape[1]):
        hint = ": move the channels with images.permute(0, 3, 1, 2)" if shape[3] == channels else ""
        raise ValueError(f"images have shape {shape}, expected (B, {channels}, H, W){hint}") from error
    if dtype not in (None, images.dtype) and not torch.is_autocast_enabled(images.device.type):
        raise TypeError(
            f"images are {images.dtype}, expected {dtype}, as the weights are: images.to({dtype}), or "
            f"model.to({images.dtype})"
        ) from error


def check_features(features: Tensor) -> None:
    """Raises a ValueError if the features are not (B, C, H, W) or have a single pixel."""
    if features.ndim != 4 or features.shape[-2] * features.shape[-1] == 1:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, expected (B, C, H, W) with more than one pixel, "
            "or there is nothing to attend to: use larger images or an earlier split"
        )


def match_features(attention_maps: Tensor, features: Tensor, tasks: int = 1) -> Tensor:
    """Brings attention maps to the resolution and dtype of features.

    Args:
        attention_maps: (B, T, h, w), where B = 1 gives all images one map, and T = 1 all tasks; or
            (B, h, w), one map for all tasks.
        features: (B, C, H, W).
        tasks: Number of tasks T.

    Returns:
        (B or 1, T or 1, H, W).

    Raises:
        TypeError: If the maps are no tensor.
        ValueError: If the maps have another shape, or hold whole numbers.
    """
    check_dtype(attention_maps, "attention_map")
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
    return resize_maps(maps, (height, width)).to(features.dtype)


def with_channel(attention_maps: Tensor, name: str = "attention_map") -> Tensor:
    """Brings maps or masks to the shape (B, 1, h, w).

    Args:
        attention_maps: (B, 1, h, w) or (B, h, w).
        name: Name of the argument, for the error message.

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


def check_dtype(values: Tensor, name: str) -> None:
    """Raises an error unless a map or mask is a tensor of floating point or bool.

    Whole numbers are ambiguous: they may be values from 0 to 255, or indices of classes.
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
    check_dtype(values, name)
    if not in_range(values):
        raise ValueError(
            f"{name} goes from {values.min():.4g} to {values.max():.4g}, expected values from 0 to 1: divide "
            "it by its highest, or cut off what is beyond with clamp(0, 1)"
        )


def in_range(values: Tensor) -> bool:
    """Tells whether all values lie between 0 and 1, with some room for rounding. False if one is NaN.

    Only values on the CPU are checked: on other devices every call would wait for the device. Values on other
    devices, and values in a compiled model, count as in range.
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


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes maps (B, T, h, w), bilinearly and in float32. Maps that have this size stay unchanged."""
    if maps.shape[-2:] == size:
        return maps
    if maps.shape[-2:] == (1, 1):  # interpolation would change a 1 by rounding
        return maps.expand(-1, -1, *size)
    shrinking = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    return F.interpolate(maps.float(), size=size, mode="bilinear", antialias=shrinking)
