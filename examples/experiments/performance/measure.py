"""Time in turn, arithmetic, and peak memory."""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

LEAST_ROUNDS = 7
Name = TypeVar("Name")
Value = TypeVar("Value")


def in_turn(calls: Mapping[Name, Callable[[], object]], spent: float, device: str) -> dict[Name, list[float]]:
    """Seconds of each call, once per round; every other round in reverse, so that none always comes last.

    Args:
        calls: By name.
        spent: Seconds to spend on it; but there are seven rounds at least.
        device: ``"cpu"`` or ``"cuda"``.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    end = math.inf
    for number in itertools.count(-2):  # the first two allocate, and compile
        if number == 0:
            end = time.monotonic() + spent
        if number >= LEAST_ROUNDS and time.monotonic() > end:
            return times
        for name in list(calls)[:: 1 if number % 2 else -1]:
            seconds = duration(calls[name], device)
            if number >= 0:
                times[name].append(seconds)
    raise AssertionError  # counting does not end


def duration(call: Callable[[], object], device: str) -> float:
    """Seconds that the device takes."""
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


def added_memory(call: Callable[[], object], device: str) -> float:
    """MiB that a call needs at its peak beside what is there already.

    On a CPU of the whole process, on Linux.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(entry: str) -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[entry].split()[0]) / 2**10  # KiB
