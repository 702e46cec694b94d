"""Makes the images of the examples: real handwritten digits among clutter. Nothing is downloaded.

The digits are scans that come with scikit-learn. Each is placed at random among pieces of other digits, so
the place where a network should look is known.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

CANVAS, DIGIT, PIECE = 48, 16, 8  # sides in pixels
PIECES = 10  # pieces of other digits on each canvas
TRAINING_DIGITS = 1300  # of 1797; the rest is the test set


def scans(train: bool) -> tuple[Tensor, Tensor]:
    """Loads digits (N, 16, 16), in 0..1, and their labels (N,)."""
    data = load_digits()
    chosen = slice(TRAINING_DIGITS) if train else slice(TRAINING_DIGITS, None)
    digits = torch.from_numpy(data.images[chosen]).float() / 16
    large = F.interpolate(digits[:, None], size=(DIGIT, DIGIT), mode="bilinear")[:, 0]
    return large, torch.from_numpy(data.target[chosen])


def place(digits: Tensor, others: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Puts digits (N, 16, 16) among pieces of others, in images (N, 1, 48, 48); boxes (N, 4): x1 y1 x2 y2."""

    def draw(limit: int, *size: int) -> list:
        return torch.randint(limit, (len(digits), *size), generator=generator).tolist()

    images = torch.zeros(len(digits), 1, CANVAS, CANVAS)
    sources = draw(len(others), PIECES)  # the digits that the pieces are cut from,
    cuts = draw(DIGIT - PIECE + 1, PIECES, 2)  # where they are cut,
    places = draw(CANVAS - PIECE + 1, PIECES, 2)  # and where they are put
    corners = draw(CANVAS - DIGIT + 1, 2)
    for i, canvas in enumerate(images[:, 0]):
        for source, (cut_y, cut_x), (y, x) in zip(sources[i], cuts[i], places[i], strict=True):
            piece = others[source, cut_y : cut_y + PIECE, cut_x : cut_x + PIECE]
            canvas[y : y + PIECE, x : x + PIECE] = piece
        y, x = corners[i]
        canvas[y : y + DIGIT, x : x + DIGIT] = digits[i]
    y1, x1 = torch.tensor(corners).unbind(dim=1)
    return images, torch.stack([x1, y1, x1 + DIGIT, y1 + DIGIT], dim=1)
