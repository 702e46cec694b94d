"""Shows a network's own map beside the maps that torch-cam or grad-cam make of it."""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from abn.modules.maps import MAPS, kind_of
from abn.network import ABN, LogitsOnly
from abn.predictions import is_of_classes
from abn.preprocessing import stated_preprocessing
from abn.visualize.layers import last_feature_map
from abn.visualize.overlays import overlay
from abn.visualize.panels import GAP, padded, tile, with_text

METHODS = {
    "gradcam": ("Grad-CAM", "GradCAM"),
    "gradcam++": ("Grad-CAM++", "GradCAMpp"),
    "layercam": ("LayerCAM", "LayerCAM"),
    "scorecam": ("Score-CAM", "ScoreCAM"),
}
"""Of each method: its title, and the name of its class in torch-cam."""
_IN_GRAD_CAM = {"GradCAMpp": "GradCAMPlusPlus"}
"""Classes that grad-cam names otherwise."""


def compare(
    model: ABN,
    images: Image.Image | Sequence[Image.Image],
    methods: Sequence[str] = ("abn", "gradcam", "layercam"),
    *,
    classes: int | Sequence[int] | None = None,
    panel_size: int = 224,
    **overlay_arguments: Any,
) -> Image.Image:
    """Shows in one row per photograph: what the network sees, its own map, and the maps of other methods.

    The other methods are those of torch-cam, or else of grad-cam: one of both must be installed. They read
    the last feature map of the perception branch, and explain the same prediction as the network's own map.

    Args:
        model: A network for classes, of one task. It is left in evaluation mode.
        images: Photographs, as :func:`abn.images.read_image` opens them. The network's preprocessing prepares
            them.
        methods: ``"abn"`` for the network's own map, ``"gradcam"``, ``"gradcam++"``, ``"layercam"`` or
            ``"scorecam"``, in the order of the panels.
        classes: The class to explain, or one class for each photograph. Then ``"abn"`` is the map of this
            class, see :meth:`abn.ABN.class_map`. Default: the predicted class; ``"abn"`` is the map of the
            network.
        panel_size: Side of a panel in pixels.
        **overlay_arguments: ``opacity``, ``colormap`` and others of :func:`abn.visualize.overlay`.

    Raises:
        ImportError: If neither torch-cam nor grad-cam is installed.
        ValueError: If a method is unknown, a class does not exist, the network has several tasks, or its last
            feature map has its channels last, which the other libraries do not read.

    Example:
        >>> from abn import abn_resnet18
        >>> compare(abn_resnet18(num_classes=10), Image.new("RGB", (320, 240)), ["abn", "gradcam"]).size
        (688, 246)
    """
    photographs = [images] if isinstance(images, Image.Image) else list(images)
    if unknown := [method for method in methods if method not in ("abn", *METHODS)]:
        raise ValueError(f"methods are {unknown}, expected some of 'abn', {', '.join(map(repr, METHODS))}")
    if not photographs or not methods:
        raise ValueError(
            f"got {len(photographs)} images and {len(methods)} methods, expected at least one of each"
        )
    preprocessing = stated_preprocessing(model)
    weight = next(model.parameters())
    device = weight.device
    batch = torch.stack([preprocessing(image) for image in photographs]).to(device, weight.dtype)
    with torch.no_grad():
        _, logits, own = model.eval()(batch)
    if not is_of_classes(logits[0], own[0]):
        raise ValueError(
            f"the network has scores {tuple(logits.shape)} and maps {tuple(own.shape)}, expected one of "
            "classes, of one task: abn.visualize.task_grid shows the maps of several tasks"
        )
    chosen = logits.argmax(dim=1)
    if classes is not None:
        chosen = torch.as_tensor(classes, device=device)
        fits = chosen.ndim == 0 or chosen.shape == logits.shape[:1]
        if not fits or chosen.min() < 0 or chosen.max() >= logits.shape[1]:
            raise ValueError(
                f"classes are {classes}, expected one number from 0 to {logits.shape[1] - 1}, or one for "
                f"each of {len(photographs)} images"
            )
        chosen = chosen.expand(len(photographs))
        if "abn" in methods:
            own = model.class_map(batch, chosen)
    maps = {method: own if method == "abn" else cam_maps(model, batch, method, chosen) for method in methods}
    titles = ["", *("ABN" if method == "abn" else METHODS[method][0] for method in methods)]
    kind = kind_of(model.attention_branch) or MAPS["evidence"]
    own_arguments = {"rescale": True} if not kind.bounded and "sign" not in overlay_arguments else {}
    panels = []
    for index, image in enumerate(photographs):
        view = preprocessing.view(image, longest=panel_size)
        row = [view]
        for method in methods:
            arguments = {**own_arguments, **overlay_arguments} if method == "abn" else overlay_arguments
            row.append(overlay(view, maps[method][index].float(), **arguments))
        row = [padded(panel, panel_size) for panel in row]
        if index == 0:
            row = [with_text(panel, [title], above=True) for panel, title in zip(row, titles, strict=True)]
        panels.append(tile(row, columns=len(row)))
    return _stacked(panels)


def cam_maps(model: ABN, images: Tensor, method: str, classes: Tensor) -> Tensor:
    """Computes the maps of a method of torch-cam, or else of grad-cam.

    Args:
        model: A network in evaluation mode.
        images: (B, C, H, W), prepared for the network.
        method: A key of ``METHODS``.
        classes: Classes to explain, (B,).

    Returns:
        (B, 1, h, w), in [0, 1].

    Raises:
        ImportError: If neither library is installed.
        ValueError: If the last feature map has its channels last.
    """
    title, name = METHODS[method]
    view = LogitsOnly(model)
    layer, to_map = last_feature_map(model, images[:1])
    reshaped = {} if to_map is None else {"reshape_transform": to_map}
    numbers = classes.tolist()
    images = images.detach().clone().requires_grad_()  # the network itself may be frozen
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    try:
        with torch.enable_grad():
            if (library := _imported("torchcam.methods")) is not None:
                with getattr(library, name)(view, layer, **reshaped) as explain:
                    maps = explain(numbers, view(images))[0][:, None]
            elif (library := _imported("pytorch_grad_cam")) is not None:
                targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
                with getattr(library, _IN_GRAD_CAM.get(name, name))(view, [layer], **reshaped) as explain:
                    outputs = [targets.ClassifierOutputTarget(number) for number in numbers]
                    maps = torch.from_numpy(explain(images, outputs))[:, None]
            else:
                raise ImportError(f"{title} is computed by torch-cam or grad-cam: pip install torchcam")
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient  # grad-cam replaces them
    of_method: Tensor = maps.detach().nan_to_num().clamp(0, 1)
    return of_method


def _stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Puts rows of one width, but any height, below each other."""
    picture = Image.new("RGB", (rows[0].width, sum(row.height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height + GAP
    return picture


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
