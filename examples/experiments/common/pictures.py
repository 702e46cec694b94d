"""Draws a picture of labelled rows, for several experiments."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

MARGIN = 96  # for the names of the rows
GAP = 4


def labelled_rows(rows: Mapping[str, Sequence[Tensor]]) -> Image.Image:
    """Puts panels (3, H, W) in 0..1, all of one size, into rows with the row's name on the left."""
    panels = [panel for row in rows.values() for panel in row]
    columns, height = len(panels) // len(rows), panels[0].shape[-2]
    picture = to_pil_image(make_grid(panels, nrow=columns, padding=GAP, pad_value=1))
    canvas = Image.new("RGB", (MARGIN + picture.width, picture.height), "white")
    canvas.paste(picture, (MARGIN, 0))
    for row, name in enumerate(rows):
        middle = (height + GAP) * row + (height + GAP) // 2
        ImageDraw.Draw(canvas).text((4, middle), name, fill="black", font_size=16, anchor="lm")
    return canvas
