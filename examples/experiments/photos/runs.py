"""Trains one network on a task of photographs, and measures it and its maps."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from abn import ABN, ABNLoss, metrics, wrap_backbone
from abn.models import abn_cifar_resnet, cifar_resnet
from abn.saving import replacing
from experiments.photos import measures
from experiments.photos.methods import GRAD_CAM, LAYER_CAM
from experiments.photos.networks import LITE0
from experiments.photos.training import Recipe, train
from experiments.tasks.cells import cells
from experiments.tasks.cutouts import cutouts
from experiments.tasks.fashion import fashion
from experiments.tasks.images import Images, Task

DELETED = 128  # test images for deletion and insertion, which take dozens of passes each
GRIDS = 100  # grids of four test images, for the grid pointing game
IMAGE_SIZE = 128


@dataclass(frozen=True)
class Study:
    """A task, how networks are trained on it, and the layer of the plain network for other methods' maps."""

    task: Callable[[], Task]
    recipe: Recipe
    plain: Callable[[int], nn.Module]
    """Takes the number of classes, and returns a network without attention branch."""
    abn: Callable[..., ABN]
    """Takes the number of classes and arguments of :func:`abn.wrap_backbone`, and returns an ABN."""
    layer: str
    judged_class: int | None = None
    """Class on whose images alone deletion and insertion are measured."""
    grids: bool = False
    """Whether the grid pointing game is played with its test images."""


def plain_lite0(classes: int) -> nn.Module:
    model = LITE0.load()
    model.reset_classifier(classes)
    return model


def abn_lite0(classes: int, **arguments: Any) -> ABN:
    return wrap_backbone(LITE0.load(), num_classes=classes, input_size=IMAGE_SIZE, **arguments)


STUDIES = {
    "cells": Study(
        lambda: cells(IMAGE_SIZE),
        Recipe(epochs=4),
        plain_lite0,
        abn_lite0,
        "bn2",
        judged_class=1,  # defective: deleting pixels of a sound cell damages it
    ),
    "cutouts": Study(
        lambda: cutouts(IMAGE_SIZE), Recipe(epochs=4, learning_rate=5e-4), plain_lite0, abn_lite0, "bn2"
    ),
    "fashion": Study(
        fashion,
        Recipe(epochs=2, batch=128, learning_rate=3e-3, bfloat16=True),
        lambda classes: cifar_resnet(20, num_classes=classes, in_channels=1),
        lambda classes, **arguments: abn_cifar_resnet(20, num_classes=classes, in_channels=1, **arguments),
        "layer3",
        grids=True,
    ),
}


@dataclass(frozen=True)
class Variant:
    """A network to train."""

    name: str
    title: str
    arguments: dict[str, Any] | None = field(hash=False)
    """Arguments of :func:`abn.wrap_backbone`; None for the network without attention branch."""
    learning_rate: float | None = None
    """Learning rate, if it is not the study's."""


PLAIN = Variant("plain", "plain network", None)
PLAIN_SLOW = Variant("plain_slow", "plain network, half the learning rate", None, learning_rate=5e-4)
DEFAULT = Variant("default", "ABN", {})
LIGHT = Variant("light", 'ABN, `stage="light"`', {"stage": "light"})
LIGHT_FINE = Variant(
    "light_fine", 'ABN, `stage="light", split="blocks.2"`', {"stage": "light", "split": "blocks.2"}
)
PUBLISHED = Variant(
    "published",
    "ABN as published",
    {"stage": "copy", "start": "new", "map": "convolution", "mechanism": "residual"},
)
SEEDS: dict[str, dict[Variant, int]] = {
    "cells": {PLAIN: 5, PLAIN_SLOW: 5, DEFAULT: 5, LIGHT: 5, LIGHT_FINE: 1, PUBLISHED: 3},
    "cutouts": {PLAIN: 5, DEFAULT: 5, LIGHT: 4},
    "fashion": {PLAIN: 3, DEFAULT: 3},
}
"""The networks of each study, and how often each is trained."""


@cache
def task_of(study: str) -> Task:
    return STUDIES[study].task()


def directory_of(root: Path, study: str, variant: Variant, seed: int) -> Path:
    """Returns the directory in which a run is logged."""
    return root / f"{study}_{variant.name}_{seed}"


def stored(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the figures of a run, and the scores (N, K) and maps (N, 1, h, w) of its test images."""
    figures = json.loads((directory / "figures.json").read_text(encoding="utf-8"))
    return figures, {
        name: values.float() for name, values in load_file(directory / "outputs.safetensors").items()
    }


def run(study: str, variant: Variant, seed: int, directory: Path) -> None:
    """Trains and measures one network, if that was not done before."""
    if (directory / "figures.json").exists():
        return
    what, task = STUDIES[study], task_of(study)
    recipe = what.recipe
    if variant.learning_rate is not None:
        recipe = replace(recipe, learning_rate=variant.learning_rate)
    torch.manual_seed(seed)
    if variant.arguments is None:
        model, criterion = what.plain(len(task.classes)), nn.CrossEntropyLoss()
    else:
        model, criterion = what.abn(len(task.classes), **variant.arguments), ABNLoss()
    start = time.monotonic()
    train(model, criterion, task, seed, recipe)
    seconds = time.monotonic() - start
    model.eval()
    of_kind = measured_abn if isinstance(model, ABN) else measured_plain
    figures, outputs = of_kind(model, what, task)
    figures["seconds_per_epoch"] = seconds / recipe.epochs
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / "outputs.safetensors") as file:
        save_file({name: values.half().contiguous() for name, values in outputs.items()}, file)
    with replacing(directory / "figures.json") as file:  # last, since it marks the run as complete
        file.write_text(json.dumps(figures, indent=2), encoding="utf-8")


Measured = tuple[dict[str, Any], dict[str, Tensor]]
"""Figures, and scores and maps of the test images."""


def measured_abn(model: ABN, study: Study, task: Task) -> Measured:
    """Measures a network with an attention branch."""
    test, images = task.test, task.prepared(task.test)
    attention, perception, maps = measures.predictions(model, images)
    figures = scores(perception, test.labels) | {"attention": accuracy(attention, test.labels)}
    shuffled = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    figures["effect"] = {
        replacement: effect(model, images[shuffled], test.labels[shuffled], replacement)
        for replacement in ("ones", "mean", "another")
    }
    figures["maps"] = {
        "ABN": map_figures(model, study, test, images, perception, maps),
        "random maps": noise_figures(model, study, test, images, perception, size=maps.shape[-1]),
    }
    if study.grids:
        figures["maps"]["ABN"]["grid"] = grid_share(model.class_map, task, images, perception)
    return figures, {"scores": perception, "ABN": maps}


def measured_plain(model: nn.Module, study: Study, task: Task) -> Measured:
    """Measures a network without attention branch, and the maps that other methods make of it."""
    test, images = task.test, task.prepared(task.test)
    logits = measures.logits_of(model, images)
    figures, outputs = scores(logits, test.labels), {"scores": logits}
    figures["maps"] = {}
    for name, method in (("Grad-CAM", GRAD_CAM), ("LayerCAM", LAYER_CAM)):
        outputs[name] = method(model, study.layer, images, logits.argmax(dim=1))
        figures["maps"][name] = map_figures(model, study, test, images, logits, outputs[name])
        if study.grids:
            figures["maps"][name]["grid"] = grid_share(
                lambda some, classes, method=method: method(model, study.layer, some, classes),
                task,
                images,
                logits,
            )
    size = outputs["Grad-CAM"].shape[-1]
    figures["maps"]["random maps"] = noise_figures(model, study, test, images, logits, size)
    return figures, outputs


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()


def scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Computes the accuracy and, of two classes, the area under the ROC curve."""
    figures: dict[str, Any] = {"accuracy": accuracy(logits, labels)}
    if logits.shape[1] == 2:
        figures["auc"] = float(roc_auc_score(labels, logits.softmax(dim=1)[:, 1]))
    return figures


def map_figures(
    model: nn.Module, study: Study, test: Images, images: Tensor, logits: Tensor, maps: Tensor
) -> dict[str, float]:
    """Measures where the maps point, if the place of the object is known, and deletion and insertion."""
    place = {} if test.masks is None else measures.place(maps, test.masks)
    return place | judged(model, study, test, images, logits, maps)


def noise_figures(
    model: nn.Module, study: Study, test: Images, images: Tensor, logits: Tensor, size: int
) -> dict[str, float]:
    """Measures maps of noise, for deletion and insertion as coarse as other maps (h, w = size).

    Where they point is measured on noise in the images' own resolution: the highest point of a coarse map
    that is enlarged lies at the border more often than elsewhere.
    """
    fine = measures.random_maps(len(test), images.shape[-1])
    place = {} if test.masks is None else measures.place(fine, test.masks)
    return place | judged(model, study, test, images, logits, measures.random_maps(len(test), size))


def judged(
    model: nn.Module, study: Study, test: Images, images: Tensor, logits: Tensor, maps: Tensor
) -> dict[str, float]:
    """Measures deletion and insertion, on images that the network gets right."""
    right = logits.argmax(dim=1) == test.labels
    if study.judged_class is not None:
        right &= test.labels == study.judged_class
    found = right.nonzero()[:, 0]
    chosen = found[torch.linspace(0, len(found) - 1, min(DELETED, len(found))).long()]
    return measures.faithfulness(model, images[chosen], maps[chosen])


def effect(model: ABN, images: Tensor, labels: Tensor, replacement: metrics.Replacement) -> dict[str, float]:
    """Measures accuracy and change of the prediction with another map."""
    batches = zip(images.split(measures.BATCH), labels.split(measures.BATCH), strict=True)
    parts = [metrics.map_effect(model, *batch, replacement) for batch in batches if len(batch[0]) > 1]
    means = [torch.cat(values).mean().item() for values in zip(*parts, strict=True)]
    return dict(zip(("correct", "correct_replaced", "change"), means, strict=True))


def grid_share(
    explain: Callable[[Tensor, Tensor], Tensor], task: Task, images: Tensor, logits: Tensor
) -> float:
    """Plays the grid pointing game on test images of which the network is sure."""
    labels = task.test.labels
    chosen = metrics.choose_grids(logits, labels, count=GRIDS)
    return metrics.grid_pointing_game(explain, images[chosen], labels[chosen]).mean().item()
