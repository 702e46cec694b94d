"""Makes images of colored digits of two sizes among clutter, beside a square whose color betrays the class.

The digits are the scans of digits.py. The square betrays the class in training alone: in the test images its
color is drawn at random. So a network that looks at the square learns quickly, but fails on the test images,
and a map that points at the square is wrong.
"""

import torch
from digits import CANVAS, DIGIT, PIECE
from matplotlib.colors import hsv_to_rgb
from torch import Tensor
from torch.nn import functional as F

SIZES = (DIGIT, 24)  # of a digit, in pixels
PIECES = 8  # pieces of other digits on each canvas
CLASSES = 10


def place_colored(
    digits: Tensor, labels: Tensor, others: Tensor, tied: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Puts digits (N, 16, 16) among pieces of other digits and a square.

    Args:
        digits: (N, 16, 16), in 0..1.
        labels: (N,), their classes.
        others: Digits to cut the pieces from.
        tied: Share of the images whose square has the color of the class.
        generator: Source of all random numbers.

    Returns:
        Images (N, 3, 48, 48) and boxes of the digits (N, 4) as x1 y1 x2 y2.
    """
    count = len(digits)

    def draw(limit: int, *size: int) -> Tensor:
        return torch.randint(limit, (count, *size), generator=generator)

    def colors(hues: Tensor) -> Tensor:
        hsv = torch.stack([hues, torch.ones_like(hues), torch.ones_like(hues)], dim=-1)
        return torch.from_numpy(hsv_to_rgb(hsv.numpy()))[..., None, None].float()  # (..., 3, 1, 1)

    images = torch.zeros(count, 3, CANVAS, CANVAS)
    sizes = torch.tensor(SIZES)[draw(len(SIZES))].tolist()
    digit_colors = colors(torch.rand(count, generator=generator))
    piece_colors = colors(torch.rand(count, PIECES, generator=generator))
    betrayed = torch.where(torch.rand(count, generator=generator) < tied, labels, draw(CLASSES))
    square_colors = colors(betrayed / CLASSES)
    sources = draw(len(others), PIECES).tolist()
    cuts = draw(DIGIT - PIECE + 1, PIECES, 2).tolist()
    places = draw(CANVAS - PIECE + 1, PIECES, 2).tolist()
    boxes = []
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        for source, (cut_y, cut_x), (y, x), color in zip(
            sources[i], cuts[i], places[i], piece_colors[i], strict=True
        ):
            piece = others[source, cut_y : cut_y + PIECE, cut_x : cut_x + PIECE]
            image[:, y : y + PIECE, x : x + PIECE] = color * piece
        (y, x), (v, u) = _apart(size, generator)
        digit = F.interpolate(digits[i, None, None], size=(size, size), mode="bilinear")[0]
        image[:, y : y + size, x : x + size] = digit_colors[i] * digit
        image[:, v : v + PIECE, u : u + PIECE] = square_colors[i]
        boxes.append((x, y, x + size, y + size))
    return images, torch.tensor(boxes)


def _apart(size: int, generator: torch.Generator | None) -> tuple[list[int], list[int]]:
    """Draws corners (y, x) of a digit and of a square that do not overlap."""
    while True:
        y, x = torch.randint(CANVAS - size + 1, (2,), generator=generator).tolist()
        v, u = torch.randint(CANVAS - PIECE + 1, (2,), generator=generator).tolist()
        if v + PIECE <= y or y + size <= v or u + PIECE <= x or x + size <= u:
            return [y, x], [v, u]
