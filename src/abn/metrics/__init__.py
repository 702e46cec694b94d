"""How good an explanation is: where its map points, what the network makes of it, and whether it is stable.

Most functions take any maps, ABN's or another method's, and return one value per image, so that a mean, a
worst case or a list of failures is up to the caller::

    energy_pointing_game(model(images).attention_map, box_masks(boxes, size=(224, 224))).mean()

Maps are (B, 1, h, w) or (B, h, w), of any resolution and range; they are enlarged bilinearly where they meet
an image or a mask. What is computed is computed in float32, on the device of the maps.

Two are different: :func:`grid_pointing_game` asks a method for maps of several classes of one image, and
:func:`map_effect` is for an ABN alone, whose prediction depends on its map.
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
