"""The kinds of attention maps: how each kind is made, and its properties for drawing and saving."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class MapKind:
    """A kind of attention map."""

    name: str
    """Name of the kind, for the argument ``map`` of :func:`abn.wrap_backbone`."""
    of_evidence: Callable[[Tensor], Tensor] | None = None
    """Makes maps (B, N, h, w), float32, from evidence (B, N, h, w). None for maps made otherwise."""
    of_responses: Callable[[Any, Tensor], Tensor] | None = None
    """Makes the map (B, 1, h, w) from an :class:`abn.AttentionBranch` and its responses (B, R, h, w)."""
    add_layers: Callable[[Any, int], None] | None = None
    """Gives a new branch with R responses the layers that this kind needs."""
    layer: str | None = None
    """Name of a weight that only an attention branch with this kind of map has."""
    bounded: bool = True
    """Whether the values have an upper bound, which is 1."""
    signed: bool = False
    """Whether values may be negative."""
    for_classes: bool = True
    """Whether networks of one task can have this kind of map."""
    for_tasks: bool = False
    """Whether networks of several tasks can have this kind of map, one map per task."""


def _sharpen(evidence: Tensor, *, passes: int, halfway: float, power: int) -> Tensor:
    """Makes A^p / (A^p + h^p · (1 - A^p)) from evidence, where A is the evidence divided by its maximum.

    Args:
        evidence: (B, N, h, w). Negative values count as 0.
        passes: How often the evidence is averaged over 3×3 pixels first.
        halfway: The h of the formula: the value of A at which the map is one half.
        power: The p of the formula. A higher power makes the map sharper.
    """
    evidence = evidence.float().relu()  # the powers need more than half precision
    for _ in range(passes):
        evidence = F.avg_pool2d(evidence, kernel_size=3, stride=1, padding=1)
    highest = evidence.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    sharpened = (evidence / highest) ** power
    return sharpened / (sharpened + halfway**power * (1 - sharpened))


def _add_convolution(branch: Any, response_channels: int) -> None:
    branch.map_conv = nn.Conv2d(response_channels, 1, kernel_size=3, padding=1, bias=False)
    branch.map_norm = nn.BatchNorm2d(1)
    # Nothing in the loss fixes the map's sign, so the start decides it. The constant has the root mean square
    # of PyTorch's own initialisation of this layer.
    nn.init.constant_(branch.map_conv.weight, (3 * 9 * response_channels) ** -0.5)


def _convolved(branch: Any, responses: Tensor) -> Tensor:
    attention_map: Tensor = branch.map_norm(branch.map_conv(responses)).sigmoid()
    return attention_map


def _log_sum(branch: Any, responses: Tensor) -> Tensor:
    return responses.log1p().sum(dim=1, keepdim=True)


MAPS = {
    kind.name: kind
    for kind in (
        MapKind("evidence", partial(_sharpen, passes=2, halfway=0.5, power=6), for_tasks=True),
        MapKind("class_activation", partial(_sharpen, passes=1, halfway=0.25, power=4), for_tasks=True),
        MapKind(
            "convolution",
            of_responses=_convolved,
            add_layers=_add_convolution,
            layer="map_conv.weight",
        ),
        MapKind("log_sum", of_responses=_log_sum, bounded=False),
        MapKind("response", bounded=False, signed=True, for_classes=False, for_tasks=True),
        MapKind("scaled_response", bounded=False, signed=True, for_classes=False, for_tasks=True),
    )
}
"""Each kind of map by its name. To add a kind for one task, or a kind made of evidence, add an entry.

A kind for several tasks that is not made of evidence also needs a branch of its own, see
:mod:`abn.retrofit.branches`. Which kind is the default is decided in :mod:`abn.retrofit.wrap`.
"""


def kind_of(branch: nn.Module) -> MapKind | None:
    """Returns the kind of an attention branch's maps. None if the branch does not state one."""
    return MAPS.get(getattr(branch, "map", ""))


def check_map(name: str, *, several_tasks: bool | None = None) -> None:
    """Raises a ValueError if there is no kind of map with this name.

    Args:
        name: Name of the kind.
        several_tasks: True accepts the kinds for several tasks, False the kinds for one task, None all.
    """
    known = [
        kind.name
        for kind in MAPS.values()
        if several_tasks is None or (kind.for_tasks if several_tasks else kind.for_classes)
    ]
    if name not in known:
        where = {None: "", True: " with tasks=", False: " without tasks="}[several_tasks]
        raise ValueError(f"map is {name!r}, expected{where} one of {', '.join(map(repr, known))}")
