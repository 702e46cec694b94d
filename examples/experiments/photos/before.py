"""Measures what a pretrained network and its maps are worth before any training."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from abn import ABN, metrics, wrap_backbone
from experiments.common.timing import in_turn
from experiments.photos import measures
from experiments.photos.methods import CAMS, GRAD_CAM, LAYER_CAM, SCORE_CAMS
from experiments.photos.networks import Network
from experiments.tasks.photographs import composites, photographs

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
Maker = Callable[[Tensor, Tensor], Tensor]
"""Takes images (B, 3, H, W) and classes (B,), and returns maps (B, 1, h, w)."""
PASTED_TIMES = 3  # number of times that each cut-out is pasted
DELETED = 24  # composites for deletion and insertion, which take dozens of passes
SCORED = 3  # composites for Score-CAM, which takes a pass for each channel
TIMED = 8  # photographs in a batch
CONFIDENT = 0.5  # least probability of a photograph in a grid
GRIDS = {2: 20, 3: 4}  # number of grids, by their side


class Seen:
    """The images, and the predictions of a plain network for them."""

    def __init__(self, network: Network) -> None:
        self.network, self.plain = network, network.load()
        self.photographs = measures.Scenes(photographs(), network.preprocessing)
        pasted = [each for seed in range(PASTED_TIMES) for each in composites(seed)]
        self.composites = measures.Scenes(pasted, network.preprocessing)
        self.logits = measures.logits_of(self.plain, self.photographs.images)
        self.composite_logits = measures.logits_of(self.plain, self.composites.images)
        self.right = self.composites.right(self.composite_logits)


def measure(network: Network) -> dict[str, Any]:
    """Measures the predictions of one network with each change, and what they cost."""
    seen = Seen(network)
    images, masks = seen.composites.images[seen.right], seen.composites.masks[seen.right]
    figures: dict[str, Any] = {
        "plain": {
            "photographs": seen.photographs.right(seen.logits).float().mean().item(),
            "composites": seen.right.float().mean().item(),
        },
        "parameters": sum(parameter.numel() for parameter in seen.plain.parameters()),
        "variants": {},
    }
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        model = wrap_backbone(seen.plain, **variant).eval()
        figures["variants"][name] = {
            "photographs": measures.scores(model, seen.photographs, seen.logits),
            "composites": measures.scores(model, seen.composites, seen.composite_logits),
            "place": measures.place(measures.predictions(model, images)[2], masks),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
    runs = {
        "plain": seen.plain,
        "default": wrap_backbone(seen.plain).eval(),
        "version 0.1": wrap_backbone(seen.plain, **VARIANTS["version 0.1"]).eval(),
    }
    figures["seconds"] = measures.times(runs, seen.photographs.images[:TIMED])
    return figures


def explain(network: Network, score_cam: bool) -> dict[str, Any]:
    """Measures what the maps of one network are worth, beside the maps of other methods."""
    seen = Seen(network)
    model = wrap_backbone(seen.plain).eval()
    return {"maps": map_figures(seen, model, score_cam), "grids": grid_figures(seen, model)}


def map_figures(seen: Seen, model: ABN, score_cam: bool) -> dict[str, Any]:
    """Measures each method's maps: where they point, deletion and insertion, and their time."""
    layer = seen.network.layer
    images, masks = seen.composites.images[seen.right], seen.composites.masks[seen.right]
    classes = seen.composite_logits.argmax(dim=1)[seen.right]

    def of_abn(images: Tensor, classes: Tensor) -> Tensor:
        return measures.predictions(model, images)[2]

    def random(images: Tensor, classes: Tensor) -> Tensor:
        return measures.random_maps(len(images), images.shape[-1])

    makers: dict[str, Maker] = {"ABN": of_abn, "random maps": random}
    makers |= {name: partial(method, seen.plain, layer) for name, method in CAMS.items()}
    judged = torch.linspace(0, len(images) - 1, DELETED).long()
    few = torch.linspace(0, len(images) - 1, SCORED).long()
    figures: dict[str, Any] = {"all": {}, "few": {}}
    for name, make in makers.items():
        maps = make(images, classes)
        figures["all"][name] = {
            **measures.place(maps, masks),
            **measures.faithfulness(seen.plain, images[judged], maps[judged]),
            "seconds": seconds_per_image(make, images[:TIMED], classes[:TIMED]),
        }
    if score_cam:
        makers |= {name: partial(method, seen.plain, layer) for name, method in SCORE_CAMS.items()}
        for name, make in makers.items():
            start = time.perf_counter()
            maps = make(images[few], classes[few])
            seconds = (time.perf_counter() - start) / len(few)
            figures["few"][name] = {**measures.place(maps, masks[few]), "seconds": seconds}
    return figures


def seconds_per_image(make: Maker, images: Tensor, classes: Tensor) -> float:
    """Times a method with its pass through the network. Returns the median of some rounds, per image."""
    seconds = in_turn({"": lambda: make(images, classes)}, rounds=5)
    return statistics.median(seconds[""]) / len(images)


def grid_figures(seen: Seen, model: ABN) -> dict[str, Any]:
    """Plays the grid pointing game, on photographs of which the plain network is sure."""
    images, layer = seen.photographs.images, seen.network.layer
    labels = torch.tensor([known[0] for known in seen.photographs.classes])
    makers: dict[str, Maker] = {
        "ABN": torch.inference_mode()(model.class_map),
        "Grad-CAM": partial(GRAD_CAM, seen.plain, layer),
        "LayerCAM": partial(LAYER_CAM, seen.plain, layer),
        "random maps": lambda images, classes: measures.random_maps(len(images), images.shape[-1]),
    }
    sure = seen.logits.softmax(dim=1).gather(1, labels[:, None])[:, 0] >= CONFIDENT
    figures: dict[str, Any] = {"photographs": int(sure.sum())}
    for side, count in GRIDS.items():
        chosen = metrics.choose_grids(seen.logits, labels, side=side, count=count, confidence=CONFIDENT)
        shares = {
            name: metrics.grid_pointing_game(make, images[chosen], labels[chosen]).flatten()
            for name, make in makers.items()
        }
        figures[str(side)] = {
            name: {"mean": values.mean().item(), "median": values.median().item()}
            for name, values in shares.items()
        }
    return figures
