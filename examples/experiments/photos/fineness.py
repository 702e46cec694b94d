"""Measures what finer maps of small objects give and cost: other splits, and larger images."""

import statistics
from functools import partial
from typing import Any

import torch
from torch import nn

from abn import find_splits, wrap_backbone
from experiments.common.timing import in_turn, ratios
from experiments.photos import measures
from experiments.photos.methods import GRAD_CAM
from experiments.photos.networks import Network
from experiments.tasks.photographs import SMALL, Photograph, composites

SIZES = 160, 224, 320
STRIDES = 16, 8
TIMED, ROUNDS = 8, 5  # images in a batch, and rounds of both networks in turn


def measure(network: Network) -> list[dict[str, Any]]:
    """Returns a row of figures for each size of images, of the plain network and of each split."""
    plain = network.load()
    scenes = list(composites(0, SMALL))
    return [row for size in SIZES for row in of_size(network, plain, scenes, size)]


def of_size(network: Network, plain: nn.Module, scenes: list[Photograph], size: int) -> list[dict[str, Any]]:
    seen = measures.Scenes(scenes, network.preprocessing.at((size, size)))
    logits = measures.logits_of(plain, seen.images)
    right = seen.right(logits)
    maps = GRAD_CAM(plain, network.layer, seen.images[right], logits.argmax(dim=1)[right])
    figures = {"accuracy": right.float().mean().item(), **measures.place(maps, seen.masks[right])}
    some, classes = seen.images[:TIMED], logits[:TIMED].argmax(dim=1)
    calls = {
        "plain": partial(torch.inference_mode()(plain.forward), some),
        "map": partial(GRAD_CAM, plain, network.layer, some, classes),
    }
    seconds = in_turn(calls, rounds=ROUNDS)
    rows = [{"size": size, "split": "", "map": list(maps.shape[-2:]), "ratio": ratio(seconds), **figures}]
    for stride in STRIDES:
        (*_, split) = [s for s in find_splits(plain, input_size=size) if s.stride == stride]
        model = wrap_backbone(plain, split=split.name, input_size=size).eval()
        _, perception, maps = measures.predictions(model, seen.images)
        seconds = measures.times({"plain": plain, "map": model}, some, ROUNDS)
        figures = {
            "accuracy": seen.right(perception).float().mean().item(),
            **measures.place(maps[right], seen.masks[right]),
        }
        rows.append(
            {
                "size": size,
                "split": split.name,
                "map": list(maps.shape[-2:]),
                "ratio": ratio(seconds),
                **figures,
            }
        )
    return rows


def ratio(seconds: dict[str, list[float]]) -> float:
    """Returns the time with a map over the time of the plain network without gradients: the median."""
    return statistics.median(ratios(seconds["map"], seconds["plain"]))
