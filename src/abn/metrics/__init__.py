"""Metrics of explanations: where maps point, how much predictions depend on them, and how stable maps are.

Most functions take maps of any method, ABN or another, and return one value per image. The caller takes the
mean, the worst case or a list of failures::

    energy_pointing_game(model(images).attention_map, box_masks(boxes, size=(224, 224))).mean()

Maps are (B, 1, h, w) or (B, h, w), of any resolution and range. To be compared with an image or a mask, they
are resized to its resolution, bilinearly. The metrics compute in float32, on the device of the maps.

Two functions are different. :func:`grid_pointing_game` asks a method for maps of several classes of one
image. :func:`map_effect` is for ABNs alone, because only the prediction of an ABN depends on its map.
"""

from abn.metrics.comparison import entropy, iou, rank_correlation
from abn.metrics.effect import MapEffect, Replacement, map_effect
from abn.metrics.faithfulness import ConfidenceChange, confidence_change, deletion, insertion
from abn.metrics.grids import choose_grids, grid_pointing_game
from abn.metrics.localization import box_masks, energy_pointing_game, pointing_game

__all__ = [
    "ConfidenceChange",
    "MapEffect",
    "Replacement",
    "box_masks",
    "choose_grids",
    "confidence_change",
    "deletion",
    "energy_pointing_game",
    "entropy",
    "grid_pointing_game",
    "insertion",
    "iou",
    "map_effect",
    "pointing_game",
    "rank_correlation",
]
