"""Draws attention maps over their images: one map, a batch, or the maps of all tasks of an image."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from abn.images import as_rgb
from abn.visualize.panels import padded, tile, with_text

Sign = Literal["positive", "negative", "both"]


def overlay(
    image: Image.Image | Tensor,
    attention_map: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rescale: bool = False,
    sign: Sign | None = None,
    opacity: float = 0.5,
    colormap: str | None = None,
) -> Image.Image:
    """Lays an attention map over its image.

    Args:
        image: A PIL image, or a tensor (C, H, W) with C = 1 or 3: uint8 in 0..255, or float in 0..1, or
            normalised float with ``mean`` and ``std``. It must show what the network saw, or the map is
            shifted: for a photograph that was cropped, take ``preprocessing.view(photograph)``.
        attention_map: (1, h, w) or (h, w), of any resolution. It is enlarged bilinearly.
        mean: Mean with which a float image was normalised, to undo it: one number, or one per channel.
        std: Standard deviation with which a float image was normalised: one number, or one per channel.
        rescale: Whether to stretch the map's own range over the colours. By default, the colours stand for 0
            to 1, so that pictures can be compared and a flat map looks flat.
        sign: Which part to show of a map that has both signs, as with ``map="response"``: ``"positive"`` or
            ``"negative"`` shows these values alone, and the colours stand for 0 to the largest magnitude m
            in the map. ``"both"`` shows all values, and the colours stand for -m to m, with 0 in the middle.
        opacity: Opacity of the map over the image, 0 to 1.
        colormap: Name of a colour map of matplotlib. Default: ``"jet"``; for both signs ``"bwr"``, where blue
            is negative, white 0 and red positive.

    Returns:
        An RGB image of the size of ``image``.

    Raises:
        TypeError: If the image or the map is of another type.
        ValueError: If an argument has another shape or range than described, or holds NaN.

    Example:
        >>> overlay(torch.rand(3, 224, 320), torch.rand(1, 14, 20)).size
        (320, 224)
    """
    import matplotlib  # slow to import, and needed here alone

    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}, expected 0 to 1")
    colormap = colormap or default_colormap(sign)
    if not isinstance(colormap, str) or colormap not in matplotlib.colormaps:
        raise ValueError(f"colormap is {colormap!r}, expected a name in matplotlib.colormaps, such as 'jet'")
    _check_sign(sign, rescale)
    pixels = _pixels(image, mean, std)  # (3, H, W)
    values = _values(attention_map, pixels.shape[-2:], rescale, sign)  # (H, W)
    colors = torch.from_numpy(matplotlib.colormaps[colormap](values.numpy())[..., :3])  # (H, W, 3)
    blend = torch.lerp(pixels, colors.permute(2, 0, 1).float(), opacity)
    picture: Image.Image = transforms.to_pil_image(blend)
    return picture


def grid(
    images: Sequence[Image.Image] | Sequence[Tensor] | Tensor,
    attention_maps: Tensor,
    *,
    captions: Sequence[str] | None = None,
    panel_size: int = 224,
    opacity: float = 0.5,
    **overlay_arguments: Any,
) -> Image.Image:
    """Shows in one column per image: the image, its attention map, and the map laid over the image.

    Args:
        images: A batch (B, C, H, W), or a sequence of images as :func:`overlay` takes them.
        attention_maps: A map for each image, (B, 1, h, w) or (B, h, w).
        captions: A line of text above each column.
        panel_size: Side of a panel in pixels. The images keep their proportions.
        opacity: Opacity of the map over the image, 0 to 1.
        **overlay_arguments: ``mean``, ``std``, ``rescale``, ``sign`` and ``colormap`` of :func:`overlay`.

    Raises:
        TypeError: As for :func:`overlay`.
        ValueError: If there is no image, or not one map and one caption per image; and as for
            :func:`overlay`.

    Example:
        >>> grid(torch.rand(4, 3, 32, 32), torch.rand(4, 1, 8, 8), panel_size=100).size
        (424, 316)
    """
    counts = {"images": len(images), "attention_maps": len(attention_maps)}
    if captions is not None:
        counts["captions"] = len(captions)
    if not len(images) or len(set(counts.values())) > 1:
        raise ValueError(f"got {counts}, expected as many of each, and at least one")
    columns = []
    for index, (image, attention_map) in enumerate(zip(images, attention_maps, strict=True)):
        panels = [
            overlay(image, attention_map, opacity=panel_opacity, **overlay_arguments)
            for panel_opacity in (0, 1, opacity)  # image, map, overlay
        ]
        column = tile([padded(panel, panel_size) for panel in panels], columns=1)
        columns.append(with_text(column, [] if captions is None else [str(captions[index])], above=True))
    return tile(columns, len(columns))


def task_grid(
    image: Image.Image | Tensor,
    attention_maps: Tensor,
    labels: Sequence[str],
    *,
    sign: Sign | None = None,
    colormap: str | None = None,
    columns: int = 10,
    panel_size: int = 160,
    **overlay_arguments: Any,
) -> Image.Image:
    """Shows the maps of all tasks over one image, each below its label.

    Args:
        image: As for :func:`overlay`.
        attention_maps: Maps of T tasks, (T, h, w), such as ``model(images).attention_map[0]``.
        labels: A line of text for each task, such as its name and score.
        sign: As for :func:`overlay`, but with the largest magnitude m of all maps together, so that the maps
            can be compared.
        colormap: As for :func:`overlay`.
        columns: Number of panels side by side.
        panel_size: Side of a panel in pixels. The image keeps its proportions.
        **overlay_arguments: ``mean``, ``std``, ``rescale`` and ``opacity`` of :func:`overlay`.

    Returns:
        An RGB image: the image itself, then a panel per task.

    Raises:
        TypeError: As for :func:`overlay`.
        ValueError: If there is not one map per label, or ``columns`` is below one; and as for
            :func:`overlay`.

    Example:
        >>> task_grid(torch.rand(3, 32, 32), torch.rand(4, 8, 8), ["hat", "tie", "beard", "smile"]).size
        (832, 182)
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}, expected at least 1")
    if attention_maps.ndim != 3 or len(attention_maps) != len(labels) or not labels:
        raise ValueError(
            f"got maps {tuple(attention_maps.shape)} and {len(labels)} labels, expected (T, h, w) and a "
            "label per task"
        )
    _check_sign(sign, overlay_arguments.get("rescale", False))
    colormap = colormap or default_colormap(sign)
    if sign is not None:
        attention_maps = _of_sign(attention_maps.float(), sign)
    plain = overlay(image, torch.zeros(1, 1), **{**overlay_arguments, "opacity": 0, "rescale": False})
    overlays = [overlay(image, one_map, colormap=colormap, **overlay_arguments) for one_map in attention_maps]
    panels = [
        with_text(padded(panel, panel_size), [str(label)], above=True)
        for panel, label in zip([plain, *overlays], ["", *labels], strict=True)
    ]
    return tile(panels, min(columns, len(panels)))


def _pixels(image: Image.Image | Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
    """Returns the image as float RGB (3, H, W) in 0..1, on the CPU."""
    if isinstance(image, Image.Image):
        image = transforms.pil_to_tensor(as_rgb(image))
    if not isinstance(image, Tensor):
        raise TypeError(f"image is a {type(image).__name__}, expected a PIL image or a tensor (C, H, W)")
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        raise ValueError(f"image has shape {tuple(image.shape)}, expected (C, H, W) with C = 1 or 3")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image is {image.dtype}, expected uint8 or floating point")
    if (mean is None) != (std is None) or (mean is not None and image.dtype == torch.uint8):
        raise ValueError("mean and std belong together, and to a normalised float image")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, len(image)):
            raise ValueError(
                f"{name} is {values!r}, expected one number, or one for each of {len(image)} channels"
            )
    pixels = image.detach().cpu()
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if mean is not None and std is not None:
        scale, offset = (torch.tensor(list(values)).float().view(-1, 1, 1) for values in (std, mean))
        pixels = pixels * scale + offset
    low, high = pixels.min().item(), pixels.max().item()
    if not (low > -1e-3 and high < 1 + 1e-3):  # also false for NaN
        raise ValueError(
            f"image has values from {low:.3g} to {high:.3g}, expected 0 to 1: give the mean and std with "
            "which it was normalised"
        )
    return pixels.clamp(0, 1).expand(3, -1, -1)


def _values(attention_map: Tensor, size: torch.Size, rescale: bool, sign: Sign | None) -> Tensor:
    """Returns the map as float (H, W) in 0..1, on the CPU, resized to ``size``."""
    if not isinstance(attention_map, Tensor):
        raise TypeError(
            f"attention_map is a {type(attention_map).__name__}, expected a tensor, such as "
            "torch.from_numpy(attention_map)"
        )
    single = attention_map.ndim in (2, 3) and attention_map.shape[:-2].numel() == 1
    if not single or not attention_map.numel():
        raise ValueError(
            f"attention_map has shape {tuple(attention_map.shape)}, expected (1, h, w) or (h, w); several "
            "tasks are for task_grid()"
        )
    values = attention_map.detach().cpu().float().reshape(1, 1, *attention_map.shape[-2:])
    low, high = values.min().item(), values.max().item()
    if not (rescale or sign) and not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(
            f"attention_map has values from {low:.3g} to {high:.3g}, expected 0 to 1: give rescale=True to "
            "stretch another range over the colours, sign= for a map with both signs, and look for the cause "
            "if it holds NaN"
        )
    if (rescale or sign) and not high - low < float("inf"):
        raise ValueError(f"attention_map has values from {low:.3g} to {high:.3g}, expected finite ones")
    if rescale and high - low < 1e-2:
        warnings.warn(
            f"the map is nearly constant ({low:.4g} to {high:.4g}): rescaled, it shows rounding and "
            "noise, not attention",
            stacklevel=3,
        )
    values = over_colors(values, rescale, sign)
    return F.interpolate(values, size=size, mode="bilinear").clamp(0, 1)[0, 0]


def over_colors(maps: Tensor, rescale: bool, sign: Sign | None) -> Tensor:
    """Scales maps so that 0 to 1 stand for the colours, see :func:`overlay`. Several are scaled as one."""
    if sign is not None:
        maps = _of_sign(maps, sign)
    if rescale:
        low, high = maps.min(), maps.max()
        maps = (maps - low) / (high - low).clamp(min=1e-12)
    return maps


def _check_sign(sign: str | None, rescale: bool) -> None:
    if sign not in (None, *get_args(Sign)) or (sign is not None and rescale):
        raise ValueError(
            f"sign is {sign!r} and rescale {rescale}, expected one of {get_args(Sign)} without rescale"
        )


def default_colormap(sign: Sign | None) -> str:
    return "bwr" if sign == "both" else "jet"


def _of_sign(maps: Tensor, sign: Sign) -> Tensor:
    """Divides maps by their largest magnitude, into 0..1: one sign alone, or both with 0 at one half."""
    shares = maps / maps.abs().amax().clamp(min=1e-12)
    return {"positive": shares.clamp(min=0), "negative": -shares.clamp(max=0), "both": (shares + 1) / 2}[sign]
