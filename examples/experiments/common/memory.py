"""Measures the memory that a call adds at its peak."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


def added_memory(call: Callable[[], object], device: str = "cpu") -> float:
    """Measures the MiB that a call adds at its peak to the memory in use.

    On a CPU this is the memory of the whole process; it needs Linux. Measure it with :func:`in_new_process`:
    a process that has run other things uses the memory again that they have freed, and does not count it.
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


def in_new_process(measure: Callable[..., float], *arguments: Any) -> float:
    """Calls a function in a new process, whose C library gives freed memory back at once."""
    settings = patch.dict(os.environ, {"MALLOC_MMAP_THRESHOLD_": "65536"})
    with settings, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _resident(entry: str) -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[entry].split()[0]) / 2**10  # KiB
