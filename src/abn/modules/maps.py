"""The kinds of attention maps: how each is made, and what drawing and saving need to know of it."""

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
    """For the argument ``map`` of :func:`abn.wrap_backbone`."""
    of_evidence: Callable[[Tensor], Tensor] | None = None
    """Makes the map of evidence, both (B, N, h, w), in float32. None if it is made of something else."""
    of_responses: Callable[[Any, Tensor], Tensor] | None = None
    """Makes the map (B, 1, h, w) of an attention branch and its responses (B, R, h, w)."""
    add_layers: Callable[[Any, int], None] | None = None
    """Gives a new branch with R responses the layers that this kind needs."""
    layer: str | None = None
    """A weight of the branch that tells that the map is of this kind."""
    bounded: bool = True
    """Whether it has an upper bound, which is 1."""
    signed: bool = False
    """Whether it has negative values."""
    for_classes: bool = True
    """Whether networks of one task have it."""
    for_tasks: bool = False
    """Whether networks of several tasks have it, one map for each."""


def _highest_first(evidence: Tensor, *, passes: int, halfway: float, power: int) -> Tensor:
    """Evidence in shares A of its maximum, sharpened: A^p / (A^p + h^p · (1 - A^p)), one half at A = h."""
    evidence = evidence.float().relu()  # half precision has no room for the powers
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
        MapKind("evidence", partial(_highest_first, passes=2, halfway=0.5, power=6), for_tasks=True),
        MapKind("class_activation", partial(_highest_first, passes=1, halfway=0.25, power=4), for_tasks=True),
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
"""Each kind by its name. Another kind is one more entry."""


def check_map(name: str, *, several_tasks: bool | None = None) -> None:
    """Raises a ValueError if there is no such kind of map: for one task, for several, or at all."""
    known = [
        kind.name
        for kind in MAPS.values()
        if several_tasks is None or (kind.for_tasks if several_tasks else kind.for_classes)
    ]
    if name not in known:
        where = {None: "", True: " with tasks=", False: " without tasks="}[several_tasks]
        raise ValueError(f"map is {name!r}, expected{where} one of {', '.join(map(repr, known))}")
