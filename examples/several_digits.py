"""Images of several handwritten digits among clutter, for networks of several tasks.

The scans are those of digits.py. The tasks: is there a 0, a 1, ..., a 9, and what is the sum of all digits.
"""

from dataclasses import dataclass

import torch
from digits import CANVAS, DIGIT, PIECE, scans
from torch import Tensor

CLASSES = 10
TASKS = CLASSES + 1
MOST = 4  # digits in an image
PIECES = 4  # of other digits
TENS = 10  # unit of the sum, so that it is as large as a logit
NAMES = (*(f"is there a {digit}" for digit in range(CLASSES)), "sum")


@dataclass(frozen=True)
class Scenes:
    """Images with their answers."""

    images: Tensor
    """(N, 1, 48, 48), in 0..1."""
    targets: Tensor
    """(N, 11): for each digit whether it is there, 0 or 1, and the sum of all, in tens."""
    masks: Tensor
    """(N, 11, 48, 48), bool: where the digit is, in each of its boxes; last, where any is."""

    def __getitem__(self, chosen: Tensor) -> "Scenes":
        images = self.images[chosen].contiguous(memory_format=torch.channels_last)  # as CPUs prefer
        return Scenes(images, self.targets[chosen], self.masks[chosen])


def several_digits(train: bool, generator: torch.Generator) -> Scenes:
    """As many images as there are scans, each of one to four digits that do not overlap."""
    digits, labels = scans(train)
    count = len(digits)
    images = torch.zeros(count, 1, CANVAS, CANVAS)
    targets = torch.zeros(count, TASKS)
    masks = torch.zeros(count, TASKS, CANVAS, CANVAS, dtype=torch.bool)

    def draw(limit: int, *size: int) -> Tensor:
        return torch.randint(limit, size, generator=generator)

    numbers = 1 + draw(MOST, count)
    for canvas, target, mask, number in zip(images[:, 0], targets, masks, numbers.tolist(), strict=True):
        for source in draw(count, PIECES).tolist():
            (cut_y, cut_x), (y, x) = draw(DIGIT - PIECE + 1, 2).tolist(), draw(CANVAS - PIECE + 1, 2).tolist()
            piece = digits[source, cut_y : cut_y + PIECE, cut_x : cut_x + PIECE]
            canvas[y : y + PIECE, x : x + PIECE] = piece
        for source, (y, x) in zip(draw(count, number).tolist(), _apart(number, generator), strict=True):
            label = int(labels[source])
            canvas[y : y + DIGIT, x : x + DIGIT] = digits[source]
            target[label] = 1
            target[-1] += label / TENS
            for task in (label, CLASSES):
                mask[task, y : y + DIGIT, x : x + DIGIT] = True
    return Scenes(images, targets, masks)


def _apart(number: int, generator: torch.Generator) -> list[list[int]]:
    """Corners (y, x) of digits that do not overlap."""
    while True:
        corners = torch.randint(CANVAS - DIGIT + 1, (number, 2), generator=generator)
        distances = (corners[:, None] - corners).abs().amax(dim=2)  # along the axis on which they are farther
        distances.fill_diagonal_(DIGIT)
        if distances.min() >= DIGIT:
            return corners.tolist()
