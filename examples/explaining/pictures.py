"""A picture of good and bad maps side by side."""

from collections.abc import Mapping

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, make_grid

from abn import metrics
from abn.visualize import overlay
from explaining.tasks import Scenes

SCALE = 3  # of the images in the picture
MARGIN = 96  # for the rows' names
GAP = 4


def choose(scenes: Scenes, maps: Tensor, count: int = 4) -> Tensor:
    """Indices (2 · count,): images at even steps of the energy in the box, and then the worst ones."""
    masks = metrics.box_masks(scenes.boxes, scenes.images.shape[-2:])
    order = metrics.energy_pointing_game(maps, masks).argsort(descending=True)
    steps = torch.linspace(0, len(order) - 1 - count, count).long()
    return torch.cat([order[steps], order[-count:]])


def comparison(scenes: Scenes, maps: Mapping[str, Tensor], chosen: Tensor) -> Image.Image:
    """A column per image: the image with its box, and each method's map (N, 1, h, w) over it."""
    panels = []
    images = F.interpolate(scenes.images[chosen], scale_factor=SCALE).expand(-1, 3, -1, -1)
    for image, box in zip(images, scenes.boxes[chosen], strict=True):
        panels.append(draw_bounding_boxes(image, SCALE * box[None], colors="lime", width=2))
    for values in maps.values():
        for image, attention_map in zip(images, values[chosen], strict=True):
            panels.append(pil_to_tensor(overlay(image, attention_map)) / 255)
    picture = to_pil_image(make_grid(panels, nrow=len(chosen), padding=GAP, pad_value=1))
    canvas = Image.new("RGB", (MARGIN + picture.width, picture.height), "white")
    canvas.paste(picture, (MARGIN, 0))
    pitch = SCALE * scenes.images.shape[-2] + GAP
    for row, name in enumerate(["image", *maps]):
        ImageDraw.Draw(canvas).text((4, pitch * row + pitch // 2), name, fill="black", font_size=16)
    return canvas
