"""What finer maps give and cost: other splits, and larger images, of small objects."""

import statistics
from typing import Any

from torch import nn

from abn import find_splits, wrap_backbone
from photographs import measures
from photographs.data import SMALL, composites
from photographs.methods import GRAD_CAM
from photographs.networks import Network

SIZES = 128, 224, 320
STRIDES = 16, 8
PASTED_TIMES = 1
TIMED = 8  # images in a batch


def measure(network: Network) -> list[dict[str, Any]]:
    """A row of figures for each size of images, of the plain network and of each split."""
    plain = network.load()
    scenes = list(composites(0, SMALL))
    return [row for size in SIZES for row in of_size(network, plain, scenes, size)]


def of_size(network: Network, plain: nn.Module, scenes: list, size: int) -> list[dict[str, Any]]:
    seen = measures.Scenes(scenes, network.preprocessing.at((size, size)))
    logits = measures.logits_of(plain, seen.images)
    right = seen.right(logits)
    maps = GRAD_CAM(plain, network.layer, seen.images[right], logits.argmax(dim=1)[right])
    figures = {"accuracy": right.float().mean().item(), **measures.place(maps, seen.masks[right])}
    rows = [{"size": size, "split": "", "map": list(maps.shape[-2:]), "ratio": 1.0, **figures}]
    for stride in STRIDES:
        (*_, split) = [s for s in find_splits(plain, input_size=size) if s.stride == stride]
        model = wrap_backbone(plain, split=split.name, input_size=size).eval()
        _, perception, maps = measures.predictions(model, seen.images)
        seconds = measures.times({"plain": plain, "abn": model}, seen.images[:TIMED], rounds=9)
        ratios = [one / other for one, other in zip(seconds["abn"], seconds["plain"], strict=True)]
        figures = {
            "accuracy": seen.right(perception).float().mean().item(),
            **measures.place(maps[right], seen.masks[right]),
        }
        rows.append(
            {
                "size": size,
                "split": split.name,
                "map": list(maps.shape[-2:]),
                "ratio": statistics.median(ratios),
                **figures,
            }
        )
    return rows
