"""Counts the arithmetic of a call, and arranges figures by contender and form."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch.utils.flop_counter import FlopCounterMode

LEAST_ROUNDS = 7
"""Least number of rounds in which contenders are timed."""
Value = TypeVar("Value")


def nested(values: Mapping[tuple[str, str], Value]) -> dict[str, dict[str, Value]]:
    """Arranges values by row, and then by form."""
    result: dict[str, dict[str, Value]] = {}
    for (row, form), value in values.items():
        result.setdefault(row, {})[form] = value
    return result


def flops(call: Callable[[], object]) -> int:
    """Counts the floating-point operations of a call, in convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
