"""What a network and its maps are worth on photographs, before any training."""

import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchcam.methods import GradCAM, LayerCAM
from torchvision.transforms.v2 import functional as transforms

from abn import ABN, metrics
from abn.preprocessing import Preprocessing
from photographs.data import Photograph, prepared

BATCH = 32
GRIDS = 60  # of four photographs each
CONFIDENT = 0.5  # probability from which on a photograph is put into a grid
OTHERS = {"Grad-CAM": GradCAM, "LayerCAM": LayerCAM}
"""Methods that make a map of the plain network, from its last feature map."""

Maps = Callable[[Tensor, Tensor], Tensor]
"""Images (B, 3, H, W) and classes (B,) to maps (B, 1, h, w)."""


class Scenes:
    """Photographs as a network gets them."""

    def __init__(self, photographs: Sequence[Photograph], preprocessing: Preprocessing) -> None:
        images, masks = zip(*(prepared(each, preprocessing) for each in photographs), strict=True)
        self.images = torch.stack(images)
        self.masks = None if masks[0] is None else torch.stack(masks)
        self.classes = [each.classes for each in photographs]

    def right(self, logits: Tensor) -> Tensor:
        """Which of the predictions count as right, (N,)."""
        predicted = logits.argmax(dim=1).tolist()
        return torch.tensor([one in known for one, known in zip(predicted, self.classes, strict=True)])


@torch.inference_mode()
def logits_of(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([run(batch) for batch in images.split(BATCH)])


@torch.inference_mode()
def predictions(model: ABN, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of both branches and the maps."""
    parts = zip(*(model(batch) for batch in images.split(BATCH)), strict=True)
    attention, perception, maps = map(torch.cat, parts)
    return attention, perception, maps


def scores(model: ABN, scenes: Scenes, plain: Tensor) -> dict[str, float]:
    """Accuracy of both branches, and how often the attention branch says what the plain network says."""
    attention, perception, _ = predictions(model, scenes.images)
    return {
        "perception": scenes.right(perception).float().mean().item(),
        "attention": scenes.right(attention).float().mean().item(),
        "agreement": (attention.argmax(dim=1) == plain.argmax(dim=1)).float().mean().item(),
    }


def place(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Where the maps point, in the mean."""
    return {
        "pointing": metrics.pointing_game(maps, masks).mean().item(),
        "energy": metrics.energy_pointing_game(maps, masks).mean().item(),
    }


def maps_of_plain(method: type, model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (N, 1, h, w) of another method."""
    parts = []
    with method(model, layer) as explain:
        for batch, labels in zip(images.split(BATCH), classes.split(BATCH), strict=True):
            parts.append(explain(labels.tolist(), model(batch))[0].unsqueeze(1).detach())
    return torch.cat(parts)


def grids(images: Tensor, classes: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs of four different classes side by side.

    Args:
        images: (N, 3, H, W).
        classes: (N,).
        seed: Of the choice.

    Returns:
        Images (G, 3, 2 H, 2 W), the classes of their cells (G, 4), row by row, and the masks of these cells
        (4, 2 H, 2 W).
    """
    draw = random.Random(seed)
    chosen = [draw.sample(range(len(images)), 4) for _ in range(GRIDS)]
    chosen = [four for four in chosen if len(set(classes[four].tolist())) == 4]
    height, width = images.shape[-2:]
    upper, lower = ([torch.cat([*images[four[k : k + 2]]], dim=2) for four in chosen] for k in (0, 2))
    masks = torch.zeros(4, 2 * height, 2 * width, dtype=torch.bool)
    for cell, (i, j) in enumerate(itertools.product((0, 1), (0, 1))):
        masks[cell, i * height : (i + 1) * height, j * width : (j + 1) * width] = True
    grid = torch.cat([torch.stack(upper), torch.stack(lower)], dim=2)
    return grid, classes[torch.tensor(chosen)], masks


def grid_pointing_game(make: Maps, images: Tensor, classes: Tensor, masks: Tensor) -> dict[str, float]:
    """Which share of the map of a cell's class lies in this cell; by chance a quarter.

    Böhle et al., "Convolutional Dynamic Alignment Networks", CVPR 2021, section 5.2.
    """
    shares: list[float] = []
    for cell in range(4):
        batches = zip(images.split(8), classes[:, cell].split(8), strict=True)
        maps = torch.cat([make(*batch) for batch in batches]).clamp(min=0)
        enlarged = transforms.resize(maps, list(images.shape[-2:]), antialias=False)
        shares += metrics.energy_pointing_game(enlarged, masks[cell].expand(len(maps), -1, -1)).tolist()
    return {"mean": statistics.mean(shares), "median": statistics.median(shares)}


@torch.inference_mode()
def times(
    runs: dict[str, Callable[[Tensor], object]], images: Tensor, rounds: int = 15
) -> dict[str, list[float]]:
    """Seconds of each, in rounds of all in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):  # the first two warm up
        for name, run in runs.items():
            start = time.perf_counter()
            run(images)
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds
