"""Draws good and bad maps side by side."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import draw_bounding_boxes

from abn import metrics
from abn.visualize import overlay
from experiments.common.pictures import labelled_rows
from experiments.tasks.located_digits import Scenes

SCALE = 3  # of an image in the picture


def choose(scenes: Scenes, maps: Tensor, count: int = 4) -> Tensor:
    """Chooses images (2 · count,) by index: at even steps of the energy in the box, then the worst ones."""
    masks = metrics.box_masks(scenes.boxes, scenes.images.shape[-2:])
    order = metrics.energy_pointing_game(maps, masks).argsort(descending=True)
    steps = torch.linspace(0, len(order) - 1 - count, count).long()
    return torch.cat([order[steps], order[-count:]])


def comparison(scenes: Scenes, maps: Mapping[str, Tensor], chosen: Tensor) -> Image.Image:
    """Draws a column per image: the image with its box, and each method's map (N, 1, h, w) over it."""
    images = F.interpolate(scenes.images[chosen], scale_factor=SCALE).expand(-1, 3, -1, -1)
    rows = {
        "image": [
            draw_bounding_boxes(image, SCALE * box[None], colors="lime", width=2)
            for image, box in zip(images, scenes.boxes[chosen], strict=True)
        ]
    }
    for name, values in maps.items():
        rows[name] = [
            pil_to_tensor(overlay(image, attention_map)) / 255
            for image, attention_map in zip(images, values[chosen], strict=True)
        ]
    return labelled_rows(rows)
