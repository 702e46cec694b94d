"""Images of several handwritten digits among clutter, for networks of several tasks.

The scans come from digits.py. The tasks: is there a 0, a 1, ..., a 9, and what is the sum of all digits?
"""

from dataclasses import dataclass

import torch
from digits import CANVAS, DIGIT, PIECE, scans
from torch import Tensor

CLASSES = 10
TASKS = CLASSES + 1
NAMES = (*(f"a {digit}?" for digit in range(CLASSES)), "sum")
MOST = 4  # digits in an image, at most
PIECES = 4  # pieces of other digits in an image
TENS = 10  # the unit of the sum, so that it is about as large as a logit


@dataclass(frozen=True)
class Scenes:
    """Images with the labels and the masks of their digits."""

    images: Tensor
    """(N, 1, 48, 48), in 0..1."""
    labels: Tensor
    """(N, 11): for each digit whether it is there, 0 or 1, and the sum of all, in tens."""
    masks: Tensor
    """(N, 11, 48, 48), bool: the boxes of each digit, and last the boxes of all digits."""

    def __getitem__(self, chosen: Tensor) -> "Scenes":
        images = self.images[chosen].contiguous(memory_format=torch.channels_last)  # faster on CPUs
        return Scenes(images, self.labels[chosen], self.masks[chosen])


class SeveralDigits:
    """The data of these tasks: as many images as there are scans, each of one to four digits."""

    def scenes(self, train: bool, generator: torch.Generator) -> Scenes:
        digits, classes = scans(train)
        count = len(digits)
        images = torch.zeros(count, 1, CANVAS, CANVAS)
        labels = torch.zeros(count, TASKS)
        masks = torch.zeros(count, TASKS, CANVAS, CANVAS, dtype=torch.bool)

        def draw(limit: int, *size: int) -> list:
            return torch.randint(limit, size, generator=generator).tolist()

        for canvas, label, mask in zip(images[:, 0], labels, masks, strict=True):
            for source in draw(count, PIECES):
                (cut_y, cut_x), (y, x) = draw(DIGIT - PIECE + 1, 2), draw(CANVAS - PIECE + 1, 2)
                piece = digits[source, cut_y : cut_y + PIECE, cut_x : cut_x + PIECE]
                canvas[y : y + PIECE, x : x + PIECE] = piece
            number = 1 + draw(MOST, 1)[0]
            for source, (y, x) in zip(draw(count, number), _apart(number, generator), strict=True):
                digit = int(classes[source])
                canvas[y : y + DIGIT, x : x + DIGIT] = digits[source]
                label[digit] = 1
                label[-1] += digit / TENS
                mask[[digit, -1], y : y + DIGIT, x : x + DIGIT] = True
        return Scenes(images, labels, masks)

    def test_scenes(self) -> Scenes:
        """Makes the test images, the same for all networks."""
        return self.scenes(False, torch.Generator().manual_seed(0))


def _apart(number: int, generator: torch.Generator) -> list[list[int]]:
    """Draws corners (y, x) of digits that do not overlap."""
    while True:
        corners = torch.randint(CANVAS - DIGIT + 1, (number, 2), generator=generator)
        distances = (corners[:, None] - corners).abs().amax(dim=2)  # along the axis on which they are farther
        distances.fill_diagonal_(DIGIT)
        if distances.min() >= DIGIT:
            return corners.tolist()
