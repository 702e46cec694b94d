"""A task of products that are placed at random among pieces of others, so that their place is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.tasks.fashion import fashion

CANVAS, PRODUCT, PIECE = 56, 28, 14  # sides in pixels
PIECES = 4  # pieces of other products on each canvas
MEAN, STD = 0.2, 0.35


@dataclass(frozen=True)
class Scenes:
    """Images with the labels and the boxes of their products."""

    images: Tensor
    """(N, 1, 56, 56), normalised."""
    labels: Tensor
    """(N,)"""
    boxes: Tensor
    """(N, 4), x1 y1 x2 y2."""

    def __getitem__(self, chosen: Tensor | slice) -> "Scenes":
        return Scenes(self.images[chosen], self.labels[chosen], self.boxes[chosen])


class LocatedFashion:
    """60,000 products of Fashion-MNIST to train on, placed anew in every epoch, and 10,000 to test with."""

    def __init__(self) -> None:
        task = fashion()
        self._parts = {True: task.train, False: task.test}
        self.count = len(task.train)
        """Number of images to train on."""

    def scenes(self, train: bool, generator: torch.Generator) -> Scenes:
        part = self._parts[train]
        products = part.pixels[:, 0].float() / 255
        images, boxes = place(products, generator)
        return Scenes((images - MEAN) / STD, part.labels, boxes)


def place(products: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Puts products (N, 28, 28) on images (N, 1, 56, 56); boxes (N, 4): x1 y1 x2 y2."""
    count = len(products)
    numbers = torch.arange(count)

    def draw(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator)

    def square(side: int, top: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the indices of a square of pixels in each image."""
        rows, columns = (start[:, None] + torch.arange(side) for start in (top, left))
        return numbers[:, None, None], rows[:, :, None], columns[:, None, :]

    images = torch.zeros(count, CANVAS, CANVAS)
    for _ in range(PIECES):
        others = products[draw(count)]
        cut = others[square(PIECE, draw(PRODUCT - PIECE + 1), draw(PRODUCT - PIECE + 1))]
        images[square(PIECE, draw(CANVAS - PIECE + 1), draw(CANVAS - PIECE + 1))] = cut
    top, left = draw(CANVAS - PRODUCT + 1), draw(CANVAS - PRODUCT + 1)
    images[square(PRODUCT, top, left)] = products
    return images[:, None], torch.stack([left, top, left + PRODUCT, top + PRODUCT], dim=1)
