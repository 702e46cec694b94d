"""The page on pretrained networks, from the figures of its runs."""

import platform
import statistics
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from photographs.measures import CONFIDENT

VARIANTS: dict[str, dict[str, Any]] = {
    "version 0.1": {"stage": "copy", "start": "new", "map": "class_activation", "mechanism": "residual"},
    "its heads, on the dense stage": {
        "stage": "dense", "start": "new", "map": "class_activation", "mechanism": "residual",
    },
    "dense stage, the backbone's classifier": {"map": "class_activation", "mechanism": "residual"},
    "and `mechanism=\"dimming\"`": {"map": "class_activation"},
    "and `map=\"evidence\"`: the default": {},
}  # fmt: skip
"""Arguments of :func:`abn.wrap_backbone`, one change at a time."""
DEFAULT = list(VARIANTS)[-1]


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page, from the figures of each network."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "torchcam"))
    return PAGE.format(
        versions=f"{versions}, Python {platform.python_version()}, {platform.machine()}",
        predictions=table(prediction_rows(results)),
        maps=table(map_rows(results)),
        grids=table(grid_rows(results)),
        grid_facts="; ".join(
            f"{name}: {figures['grids']['photographs']} photographs, {figures['grids']['grids']} grids"
            for name, figures in results.items()
        ),
        changes=table(change_rows(results)),
        cost=table(cost_rows(results)),
        confident=CONFIDENT,
    )


def table(rows: list[list[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]])


def prediction_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["network", "images", "plain", "perception branch", "attention branch", "agreement"]]
    for name, figures in results.items():
        for images in ("photographs", "composites"):
            default = figures["variants"][DEFAULT][images]
            branches = [default[key] for key in ("perception", "attention", "agreement")]
            rows.append([name, images, *numbers([figures["plain"][images], *branches])])
    return rows


def map_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["network", "map", "peak on the object", "energy on the object"]]
    for name, figures in results.items():
        for title, place in {"ABN": figures["variants"][DEFAULT]["place"], **figures["maps"]}.items():
            rows.append([name, title, *numbers([place["pointing"], place["energy"]])])
    return rows


def grid_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["network", "map of the cell's class", "mean share in the cell", "median"]]
    for name, figures in results.items():
        for title, share in figures["grids"]["maps"].items():
            rows.append([name, title, *numbers([share["mean"], share["median"]])])
    return rows


def change_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["network", "", "photographs", "composites", "peak on the object", "energy on the object"]]
    for name, figures in results.items():
        plain = figures["plain"]
        rows.append([name, "plain", *numbers([plain["photographs"], plain["composites"]]), "", ""])
        for title, variant in figures["variants"].items():
            values = [variant[images]["perception"] for images in ("photographs", "composites")]
            values += [variant["place"][key] for key in ("pointing", "energy")]
            rows.append([name, title, *numbers(values)])
    return rows


def cost_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["network", "", "parameters over plain", "time over plain, median and quartiles"]]
    for name, figures in results.items():
        seconds = figures["seconds"]
        for title, variant in (("version 0.1", "version 0.1"), ("default", DEFAULT)):
            parameters = figures["variants"][variant]["parameters"] / figures["parameters"]
            ratios = [one / plain for one, plain in zip(seconds[title], seconds["plain"], strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            rows.append([name, title, f"{parameters:.2f}", f"{median:.2f} ({low:.2f} to {high:.2f})"])
    return rows


def numbers(values: Iterable[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


PAGE = """\
# Pretrained networks, before any training

Written by `python examples/pretrained.py` from the logs of its runs: {versions}.

`wrap_backbone` keeps what a pretrained classifier has learned. The attention branch runs the classifier's
own last stage at every pixel of the features, and reads its own final layers as evidence per pixel. So the
network predicts about as well as before, and its map points at what it predicts from the first call, in one
forward pass and without a gradient.

Two sets of images:

- **photographs**: 20 photographs of ImageNet, one object each (package `foolbox`).
- **composites**: 126 cut-out objects (photographs from Tux Paint's stamps), each pasted at random on one of
  seven backgrounds (MATE), three times: 378 images of which the object's pixels are known. They are
  composites, not natural photographs.

Networks with their published ImageNet weights. Map, mechanism and stage were chosen on EfficientNet-Lite0 and
MobileNetV2 with these very images; EfficientNet-Lite1 was not looked at before.

## Predictions

Top-1 accuracy; *agreement*: how often the attention branch says what the plain network says.

{predictions}

The perception branch is the network's prediction. On one photograph of the 20 it may differ from the plain
network: what the map does not show is dimmed, also where it helped. For this reason it is better among
clutter.

## Maps

On the composites that the plain network gets right. *Peak*: in which share of the images the map's highest
point lies on the object's pixels. *Energy*: which share of the map does. Grad-CAM and LayerCAM are
torch-cam's, of the plain network's predicted class, from its last feature map.

{maps}

Grid pointing game (Böhle et al., CVPR 2021): four photographs of different classes side by side, and the map
of each class, `model.class_map(images, classes)`. By chance the share is 0.25. Photographs that the plain
network gets right with a probability above {confident}. {grid_facts}.

{grids}

## What each change gives

Top-1 accuracy of the perception branch, and its map on the composites. Each row adds one change.

{changes}

## What it costs

Eight images at once, eager, in rounds of all three in turn.

{cost}

More on cost: [performance.md](performance.md).

## What this does not show

These maps show evidence as the backbone's classifier counts it, at the resolution of the features: each
point sees a large part of the image. A classifier that looks at the wrong thing shows the wrong thing. The
figures are of small networks on few images; the composites favour methods that find a single object.
Fine-tuning is another matter.
"""
