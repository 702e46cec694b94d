"""What is wrong with images that a network cannot take."""

import torch
from torch import Tensor


def check_images(images: Tensor) -> None:
    """Raises an error if the images are no batch of floating-point images, or hold NaN."""
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
    if _hold_nan(images):
        raise ValueError(
            f"{int(images.isnan().flatten(1).any(1).sum())} of {len(images)} images hold NaN, expected "
            "finite values: look at how they were decoded and normalised (a standard deviation of 0?)"
        )


def _hold_nan(images: Tensor) -> bool:
    if images.device.type != "cpu":
        return False
    try:
        # A sum is NaN if an image holds one, or infinities of both signs; it takes a twentieth of the time.
        return bool(images.sum().isnan()) and bool(images.isnan().any())
    except RuntimeError:  # under vmap, or with fake tensors, there are no values to look at
        return False


def explain_failure(
    images: Tensor, channels: int | None, dtype: torch.dtype | None, error: RuntimeError
) -> None:
    """Raises an error that says why a network failed on images, if it can be told.

    Args:
        images: (B, C, H, W).
        channels: That the network was made for, where known.
        dtype: Of its first weight, if it has one.
        error: With which it failed.
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
