"""Times calls in turn, so that a busy machine slows all of them alike."""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

Name = TypeVar("Name")


def in_turn(
    calls: Mapping[Name, Callable[[], object]], *, rounds: int, seconds: float = 0, device: str = "cpu"
) -> dict[Name, list[float]]:
    """Times each call once per round, in seconds. Every other round is in reverse, so none always comes last.

    Args:
        calls: Calls by name.
        rounds: Least number of rounds. Two rounds before them are not counted: in them the calls allocate
            memory and compile.
        seconds: Least time to spend on rounds.
        device: ``"cpu"`` or ``"cuda"``.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    end = math.inf
    for number in itertools.count(-2):
        if number == 0:
            end = time.monotonic() + seconds
        if number >= rounds and time.monotonic() > end:
            break
        for name in list(calls)[:: 1 if number % 2 else -1]:
            taken = duration(calls[name], device)
            if number >= 0:
                times[name].append(taken)
    return times


def duration(call: Callable[[], object], device: str = "cpu") -> float:
    """Measures the seconds that the device takes for a call."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Divides times by other times, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]
