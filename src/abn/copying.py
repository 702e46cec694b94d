"""Copies of a module without its weights, and how to make and run many of them."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor, nn


def without_weights(module: nn.Module) -> nn.Module:
    """A copy whose weights, and all other tensors, are on the meta device."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    attributes = chain.from_iterable(vars(submodule).values() for submodule in module.modules())
    tensors = (value for value in chain(module.buffers(), attributes) if isinstance(value, Tensor))
    memo |= {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    return copy.deepcopy(module, memo)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pauses the garbage collector, for code that makes very many small objects in a short time.

    It would go through all objects of the process again and again: a third of the time that a wrap takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
