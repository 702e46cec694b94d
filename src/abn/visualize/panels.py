"""Arranges panels in rows and columns of one picture, and adds lines of text."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

GAP = 8
"""Pixels between panels."""


def padded(panel: Image.Image, size: int) -> Image.Image:
    """Fits a panel into a white square, and keeps its proportions."""
    return ImageOps.pad(panel, (size, size), color="white")


def tile(panels: Sequence[Image.Image], columns: int) -> Image.Image:
    """Puts panels of one size on white, row by row."""
    rows = -(-len(panels) // columns)
    across, down = (side + GAP for side in panels[0].size)
    canvas = Image.new("RGB", (columns * across - GAP, rows * down - GAP), "white")
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        canvas.paste(panel, (column * across, row * down))
    return canvas


def with_text(
    panel: Image.Image,
    lines: Sequence[str],
    *,
    above: bool = False,
    font_size: int = 14,
    width: int = 0,
) -> Image.Image:
    """Adds lines of text below a panel, or above it, on a canvas of at least this width.

    A line that is too long is cut off.
    """
    line_height = font_size + 8
    height = line_height * len(lines)
    canvas = Image.new("RGB", (max(panel.width, width), panel.height + height), "white")
    canvas.paste(panel, (0, height if above else 0))
    for row, line in enumerate(lines):
        top = 4 + line_height * row + (0 if above else panel.height)
        ImageDraw.Draw(canvas).text((2, top), line, fill="black", font_size=font_size)
    return canvas
