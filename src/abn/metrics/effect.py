"""Measures how much the decision of an ABN depends on its own attention map."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from abn.metrics.inputs import as_float_maps
from abn.network import ABN

Replacement = Literal["ones", "mean", "another"]


class MapEffect(NamedTuple):
    """Results of :func:`map_effect`, one value per image. The caller takes the mean."""

    correct: Tensor
    """Whether the network is right with its own map, (B,), 0 or 1."""
    correct_replaced: Tensor
    """Whether the network is right with the replaced map, (B,), 0 or 1."""
    change: Tensor
    """Total variation distance of the class probabilities with either map, (B,), in [0, 1]: half the sum of
    the absolute differences."""


@torch.no_grad()
def map_effect(
    model: ABN, images: Tensor, labels: Tensor, replacement: Replacement | Tensor = "another"
) -> MapEffect:
    """Measures the map's part in the decision: replaces the attention map and compares the predictions.

    Args:
        model: Network in evaluation mode, of one task with several classes.
        images: (B, C, H, W).
        labels: The true classes, (B,).
        replacement: ``"another"``: each image gets the map of the next image in the batch, so the images
            should be in random order. ``"mean"``: the map's own mean everywhere, which removes where the map
            points, but keeps how much of the features passes. ``"ones"``: 1 everywhere, which leaves the
            features unchanged under the mechanisms ``"dimming"`` and ``"multiplicative"``, and doubles them
            under ``"residual"``. Or maps of your own, (B, 1, h, w) or (B, h, w).

    Raises:
        ValueError: If ``replacement`` is unknown, there is a single image for ``"another"``, the shapes do
            not fit together, maps hold NaN, or the model has several tasks, has a single output, or is in
            training mode.
    """
    if not isinstance(replacement, Tensor) and replacement not in get_args(Replacement):
        known = ", ".join(map(repr, get_args(Replacement)))
        raise ValueError(f"replacement is {replacement!r}, expected one of {known}, or maps")
    if model.training:
        raise ValueError("the model is in training mode, in which images influence each other: model.eval()")
    if len(images) < 2 and isinstance(replacement, str) and replacement == "another":
        raise ValueError("got a single image, expected at least two: the one gets the map of the other")
    _, own, maps = model(images)
    if maps.shape[1] > 1 or own.ndim != 2 or own.shape[1] < 2 or labels.shape != own.shape[:1]:
        raise ValueError(
            f"got scores {tuple(own.shape)}, {maps.shape[1]} maps and labels {tuple(labels.shape)}, expected "
            "(B, K) of several classes, of one task, and (B,)"
        )
    if isinstance(replacement, Tensor):
        other_maps = as_float_maps(replacement).to(maps.dtype)
    elif replacement == "another":
        other_maps = maps.roll(-1, dims=0)
    elif replacement == "mean":
        other_maps = maps.mean(dim=(2, 3), keepdim=True).expand_as(maps)
    else:
        other_maps = torch.ones_like(maps)
    replaced = model(images, attention_map=other_maps).perception_logits
    change = (own.float().softmax(dim=1) - replaced.float().softmax(dim=1)).abs().sum(dim=1) / 2
    return MapEffect(
        (own.argmax(dim=1) == labels).float(), (replaced.argmax(dim=1) == labels).float(), change
    )
