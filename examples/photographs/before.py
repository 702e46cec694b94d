"""What a pretrained network and its maps are worth before any training."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from abn import ABN, metrics, wrap_backbone
from photographs import measures
from photographs.data import composites, photographs
from photographs.methods import CAMS, GRAD_CAM, LAYER_CAM, SCORE_CAMS
from photographs.networks import Network

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
PASTED_TIMES = 3  # each cut-out
DELETED = 64  # composites for deletion and insertion, which take dozens of passes
SCORED = 10  # composites for Score-CAM, which takes a pass for each channel
TIMED = 8  # photographs in a batch
CONFIDENT = 0.5  # probability from which on a photograph is put into a grid
GRIDS = 60


def measure(network: Network) -> dict[str, Any]:
    """All figures of one network."""
    plain = network.load()
    seen = measures.Scenes(photographs(), network.preprocessing)
    pasted = measures.Scenes(
        [each for seed in range(PASTED_TIMES) for each in composites(seed)], network.preprocessing
    )
    logits = {id(scenes): measures.logits_of(plain, scenes.images) for scenes in (seen, pasted)}
    right = pasted.right(logits[id(pasted)])
    images, masks, predicted = pasted.images[right], pasted.masks[right], logits[id(pasted)].argmax(1)[right]
    figures: dict[str, Any] = {
        "plain": {
            "photographs": seen.right(logits[id(seen)]).float().mean().item(),
            "composites": right.float().mean().item(),
        },
        "parameters": sum(parameter.numel() for parameter in plain.parameters()),
        "variants": {},
    }
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        model = wrap_backbone(plain, **variant).eval()
        figures["variants"][name] = {
            "photographs": measures.scores(model, seen, logits[id(seen)]),
            "composites": measures.scores(model, pasted, logits[id(pasted)]),
            "place": measures.place(measures.predictions(model, images)[2], masks),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
    model = wrap_backbone(plain).eval()
    figures["maps"] = map_figures(network, plain, model, images, masks, predicted)
    figures["grids"] = grid_figures(network, plain, model, seen, logits[id(seen)])
    runs = {
        "plain": plain,
        "default": model,
        "version 0.1": wrap_backbone(plain, **VARIANTS["version 0.1"]).eval(),
    }
    figures["seconds"] = measures.times(runs, seen.images[:TIMED])
    return figures


def map_figures(
    network: Network, plain: nn.Module, model: ABN, images: Tensor, masks: Tensor, classes: Tensor
) -> dict[str, Any]:
    """Of each method's maps: where they point, what the plain network makes of them, and their time."""

    def of_abn(images: Tensor, classes: Tensor) -> Tensor:
        return measures.predictions(model, images)[2]

    def random(images: Tensor, classes: Tensor) -> Tensor:
        return measures.random_maps(len(images), images.shape[-1])

    makers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ABN": of_abn, "random maps": random}
    makers |= {name: partial(method, plain, network.layer) for name, method in CAMS.items()}
    scoring = {name: partial(method, plain, network.layer) for name, method in SCORE_CAMS.items()}
    figures: dict[str, Any] = {"all": {}, "few": {}}
    judged = torch.linspace(0, len(images) - 1, DELETED).long()
    for name, make in makers.items():
        maps = make(images, classes)
        figures["all"][name] = {
            **measures.place(maps, masks),
            **measures.faithfulness(plain, images[judged], maps[judged]),
            "seconds": seconds_per_image(make, images[:TIMED], classes[:TIMED], rounds=5),
        }
    chosen = torch.linspace(0, len(images) - 1, SCORED).long()
    for name, make in {**makers, **scoring}.items():
        some = images[chosen], classes[chosen]
        figures["few"][name] = {
            **measures.place(make(*some), masks[chosen]),
            "seconds": seconds_per_image(make, *(values[:2] for values in some), rounds=1),
        }
    return figures


def seconds_per_image(
    make: Callable[[Tensor, Tensor], Tensor], images: Tensor, classes: Tensor, rounds: int
) -> float:
    """Of a method with its pass through the network, the median of some rounds."""
    seconds = measures.seconds_of({"": lambda images: make(images, classes)}, images, rounds)
    return statistics.median(seconds[""]) / len(images)


def grid_figures(
    network: Network, plain: nn.Module, model: ABN, seen: measures.Scenes, logits: Tensor
) -> dict[str, Any]:
    """The grid pointing game, on photographs that the plain network is sure of."""
    labels = torch.tensor([known[0] for known in seen.classes])
    makers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ABN": torch.inference_mode()(model.class_map),
        "Grad-CAM": partial(GRAD_CAM, plain, network.layer),
        "LayerCAM": partial(LAYER_CAM, plain, network.layer),
        "random maps": lambda images, classes: measures.random_maps(len(images), images.shape[-1]),
    }
    sure = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0] >= CONFIDENT
    figures: dict[str, Any] = {"photographs": int(sure.sum())}
    for side in (2, 3):
        chosen = metrics.choose_grids(logits, labels, side=side, count=GRIDS, confidence=CONFIDENT)
        shares = {
            name: metrics.grid_pointing_game(make, seen.images[chosen], labels[chosen]).flatten()
            for name, make in makers.items()
        }
        figures[str(side)] = {
            name: {"mean": values.mean().item(), "median": values.median().item()}
            for name, values in shares.items()
        }
    return figures
