"""Measures what networks and their maps are worth on photographs."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from abn import ABN, metrics
from abn.preprocessing import Preprocessing
from experiments.common.timing import in_turn
from experiments.tasks.photographs import Photograph, prepared

BATCH = 32
STEPS = 16  # in which the pixels are deleted or inserted


class Scenes:
    """Photographs as a network gets them."""

    def __init__(self, photographs: Sequence[Photograph], preprocessing: Preprocessing) -> None:
        images, masks = zip(*(prepared(each, preprocessing) for each in photographs), strict=True)
        self.images = torch.stack(images)
        self.masks = None if masks[0] is None else torch.stack(masks)
        self.classes = [each.classes for each in photographs]

    def right(self, logits: Tensor) -> Tensor:
        """Returns which of the predictions count as right, (N,)."""
        predicted = logits.argmax(dim=1).tolist()
        return torch.tensor([one in known for one, known in zip(predicted, self.classes, strict=True)])


@torch.inference_mode()
def logits_of(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([run(batch) for batch in images.split(BATCH)])


@torch.inference_mode()
def predictions(model: ABN, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the scores of both branches, and the maps."""
    parts = zip(*(model(batch) for batch in images.split(BATCH)), strict=True)
    attention, perception, maps = map(torch.cat, parts)
    return attention, perception, maps


def scores(model: ABN, scenes: Scenes, plain: Tensor) -> dict[str, float]:
    """Measures the accuracy of both branches, and how often attention branch and plain network agree."""
    attention, perception, _ = predictions(model, scenes.images)
    return {
        "perception": scenes.right(perception).float().mean().item(),
        "attention": scenes.right(attention).float().mean().item(),
        "agreement": (attention.argmax(dim=1) == plain.argmax(dim=1)).float().mean().item(),
    }


def random_maps(count: int, size: int) -> Tensor:
    """Makes maps of noise (N, 1, h, w), the same in every run, to compare other maps with."""
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))


def place(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Measures where the maps point, in the mean over the images."""
    return {
        "pointing": metrics.pointing_game(maps, masks).mean().item(),
        "energy": metrics.energy_pointing_game(maps, masks).mean().item(),
    }


def faithfulness(model: Callable[[Tensor], Any], images: Tensor, maps: Tensor) -> dict[str, float]:
    """Measures the prediction without, and with only, what the maps point at, in the mean over the images."""
    step = math.ceil(images.shape[-2] * images.shape[-1] / STEPS)
    parts = list(zip(images.split(BATCH), maps.split(BATCH), strict=True))
    return {
        metric.__name__: torch.cat([metric(model, *part, step=step) for part in parts]).mean().item()
        for metric in (metrics.deletion, metrics.insertion)
    }


def times(
    runs: dict[str, Callable[[Tensor], object]], images: Tensor, rounds: int = 15
) -> dict[str, list[float]]:
    """Times each network without gradients, in seconds, in rounds of all in turn."""
    with torch.inference_mode():
        return in_turn({name: partial(run, images) for name, run in runs.items()}, rounds=rounds)
