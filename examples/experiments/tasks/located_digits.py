"""Two tasks of digits in which the place where a network should look is known."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from colored_digits import place_colored
from digits import place, scans
from torch import Tensor

BETRAYED = 0.3  # share of the training images whose square betrays the class


@dataclass(frozen=True)
class Scenes:
    """Images with the labels and the boxes of their digits."""

    images: Tensor
    """(N, C, 48, 48), in 0..1."""
    labels: Tensor
    """(N,)"""
    boxes: Tensor
    """(N, 4), x1 y1 x2 y2."""

    def __getitem__(self, chosen: Tensor) -> "Scenes":
        images = self.images[chosen].contiguous(memory_format=torch.channels_last)  # faster on CPUs
        return Scenes(images, self.labels[chosen], self.boxes[chosen])


@dataclass(frozen=True)
class Task:
    """A task of digits that are placed at random, anew in every epoch."""

    name: str
    channels: int
    place: Callable[[Tensor, Tensor, bool, torch.Generator], tuple[Tensor, Tensor]]

    def scenes(self, train: bool, generator: torch.Generator) -> Scenes:
        digits, labels = scans(train)
        images, boxes = self.place(digits, labels, train, generator)
        return Scenes(images, labels, boxes)

    def test_scenes(self) -> Scenes:
        """Makes the test images, the same for all networks."""
        return self.scenes(False, torch.Generator().manual_seed(0))


def _gray(digits: Tensor, labels: Tensor, train: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return place(digits, digits, generator)


def _colored(
    tied: float, digits: Tensor, labels: Tensor, train: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    return place_colored(digits, labels, digits, tied if train else 0.0, generator)


GRAY = Task("gray", 1, _gray)
COLORED = Task("colored", 3, partial(_colored, BETRAYED))
