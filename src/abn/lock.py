"""A lock around what changes the state of the whole process for a moment."""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PROCESS_LOCK = threading.RLock()
"""Held while a network is wrapped, and while a file is unpacked: one thread at a time.

PyTorch keeps the default device, the dispatch modes and the types allowed in a checkpoint for the whole
process, as Python keeps the filters of warnings. Two threads that each set and restore one of them can leave
it changed. A network that only runs needs no lock.
"""


def one_at_a_time(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run by one thread at a time, under :data:`PROCESS_LOCK`."""

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> T:
        with PROCESS_LOCK:
            return function(*args, **kwargs)

    return locked
