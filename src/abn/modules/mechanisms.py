"""The attention mechanisms: how a map weights the features."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mechanism:
    """A way to weight features g with an attention map M."""

    name: str
    """Name of the mechanism, for the argument ``mechanism`` of :func:`abn.wrap_backbone`."""
    combine: Callable[[Tensor, Tensor], Tensor]
    """Takes the features g and the product M·g, and returns the weighted features."""
    neutral: float
    """A map of this value leaves the features, and so the backbone's logits, unchanged, bit for bit."""


MECHANISMS = {
    mechanism.name: mechanism
    for mechanism in (
        Mechanism("dimming", lambda features, attended: (features + attended) / 2, neutral=1.0),
        # Not features * (1 + map): near 1, half precision would round most of the map away.
        Mechanism("residual", lambda features, attended: features + attended, neutral=0.0),
        Mechanism("multiplicative", lambda features, attended: attended, neutral=1.0),
    )
}
"""Each mechanism by its name. To add a mechanism, add an entry."""


def attend(features: Tensor, attention_map: Tensor, mechanism: str) -> Tensor:
    """Weights the features with an attention map, which is broadcast to the shape of the features."""
    return MECHANISMS[mechanism].combine(features, features * attention_map)


def check_mechanism(name: str) -> None:
    """Raises a ValueError if there is no attention mechanism of this name."""
    if name not in list(MECHANISMS):
        raise ValueError(f"mechanism is {name!r}, expected one of {', '.join(map(repr, MECHANISMS))}")
