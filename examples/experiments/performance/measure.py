"""Arithmetic of a call, and figures by contender and form."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch.utils.flop_counter import FlopCounterMode

LEAST_ROUNDS = 7
"""Rounds in which contenders are timed, at least."""
Value = TypeVar("Value")


def nested(values: Mapping[tuple[str, str], Value]) -> dict[str, dict[str, Value]]:
    """By row, and then by form."""
    result: dict[str, dict[str, Value]] = {}
    for (row, form), value in values.items():
        result.setdefault(row, {})[form] = value
    return result


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call: those of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
