"""Draws maps over test images, good ones and bad ones."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.utils import draw_segmentation_masks

from abn import metrics
from abn.visualize import overlay
from experiments.common.pictures import labelled_rows
from experiments.tasks.images import Images

COUNT = 4  # good ones, and as many bad ones


def choose_cells(scores: Tensor, labels: Tensor) -> Tensor:
    """Chooses defective cells: found ones, at even steps of their score, and those with the lowest scores."""
    defective = (labels == 1).nonzero()[:, 0]
    order = defective[scores[defective].softmax(dim=1)[:, 1].argsort(descending=True)]
    found = int((scores[defective].argmax(dim=1) == 1).sum())
    steps = torch.linspace(0, max(found - 1, 0), COUNT).long()
    return torch.cat([order[steps], order[-COUNT:]])


def choose_objects(maps: Tensor, masks: Tensor) -> Tensor:
    """Chooses images at even steps of the map's energy on the object, and the worst ones."""
    order = metrics.energy_pointing_game(maps, masks).argsort(descending=True)
    steps = torch.linspace(0, len(order) - 1 - COUNT, COUNT).long()
    return torch.cat([order[steps], order[-COUNT:]])


def comparison(images: Images, maps: Mapping[str, Tensor]) -> Image.Image:
    """Draws a column per image: the image with its object outlined, and maps (N, 1, h, w) over it."""
    rows = {"image": [pixels / 255 for pixels in images.pixels]}
    if images.masks is not None:
        rows["image"] = [
            draw_segmentation_masks(pixels, outline_of(mask), alpha=1, colors="lime") / 255
            for pixels, mask in zip(images.pixels, images.masks, strict=True)
        ]
    for name, values in maps.items():
        rows[name] = [
            pil_to_tensor(overlay(pixels, attention_map)) / 255
            for pixels, attention_map in zip(images.pixels, values, strict=True)
        ]
    return labelled_rows(rows)


def outline_of(mask: Tensor) -> Tensor:
    """Returns the pixels of a mask (H, W) that have a neighbour outside."""
    around = torch.nn.functional.max_pool2d((~mask).float()[None], kernel_size=3, stride=1, padding=1)[0]
    return mask & (around > 0)
