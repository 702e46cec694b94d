"""Draws the picture of an explained image: what the network sees, its map over it, and its answer."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from abn.predictions import is_of_classes, names_of, task_texts, top5
from abn.visualize.overlays import overlay, task_grid
from abn.visualize.panels import GAP, tile, with_text

PANEL = 384
"""Pixels of the longer side of each image in a picture."""


def draw(
    view: Image.Image,
    attention_maps: Tensor,
    logits: Tensor,
    classes: Sequence[str] | None,
    overlay_arguments: dict[str, Any],
    notes: Sequence[str] = (),
    others: Sequence[Tensor] = (),
) -> Image.Image:
    """Draws an image with its maps.

    Args:
        view: The part of the image that the network sees.
        attention_maps: (T, h, w).
        logits: (K,), (T,) or (K, T).
        classes: Names of the classes or tasks, if they are known.
        overlay_arguments: How the network's maps are drawn, see :func:`abn.visualize.overlay`.
        notes: Lines of text below the classes.
        others: Maps of other methods, each (1, h, w) in [0, 1], for panels beside the network's map.
    """
    if is_of_classes(logits, attention_maps):
        names = names_of(logits, classes)
        lines = [f"{100 * share:5.1f} %  {names[index]}" for index, share in top5(logits)]
        panels = [view, overlay(view, attention_maps[0], **overlay_arguments)]
        style: dict[str, Any] = {name: overlay_arguments.get(name) for name in ("opacity", "colormap")}
        panels += [overlay(view, other, **style) for other in others]
        count = len(panels)
        return with_text(
            tile(panels, columns=count),
            [*lines, *notes],
            font_size=16,
            width=count * PANEL + (count - 1) * GAP,
        )
    # The score stands first because a long name is cut off.
    labels = [
        f"{text}  {name}"
        for name, text in zip(names_of(logits, classes, tasks=True), task_texts(logits), strict=True)
    ]
    return task_grid(view, attention_maps, labels, **overlay_arguments)
