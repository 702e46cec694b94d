"""Limits what a stranger's configuration may ask for, by the number and size of the weights beside it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abn.checkpoint import CheckpointError
from abn.lock import PROCESS_LOCK
from abn.models.registry import is_of_this_library
from abn.preprocessing import LONGEST
from abn.retrofit.backbones import create_backbone

_COUNTS = ("num_classes", "tasks", "response_channels")
_WRAP_ARGUMENTS = (*_COUNTS, "split", "stage", "start", "map", "mechanism", "input_size")
_BOUNDED_ELSEWHERE = ("input_size", "preprocessing", "classes")  # when they are read, or by their length


def check_bounds(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuses a configuration that asks for much more than the weights hold, before memory is taken for it.

    A number of classes, channels or layers may be at most the widest dimension of a weight, or the number of
    weights if that is larger. Builders of backbones, and builders of the user's own, have other arguments
    too, such as sizes of images: these numbers may be up to ``LONGEST``. A backbone given by name is first
    built on the meta device, and refused once it is many times larger than the weights.

    Raises:
        CheckpointError: If the configuration asks for more than these limits.
    """
    widest = max(max(value.shape, default=1) for value in weights.values())
    classes, tasks = config.get("num_classes"), config.get("tasks")
    if isinstance(classes, int) and isinstance(tasks, int):
        config = {**config, "num_classes": classes * tasks}  # number of scores of all tasks
    for key, value in config.items():
        bound = max(widest, len(weights))
        if key not in _COUNTS and not is_of_this_library(str(config.get("model"))):
            bound = max(bound, LONGEST)  # the number may be a size of images
        numbers = [number for number in tree_leaves(value) if isinstance(number, int)]
        if key not in _BOUNDED_ELSEWHERE and any(abs(number) > bound for number in numbers):
            raise CheckpointError(
                f"{path} asks for {key} {str(value)[:100]}, but there are {len(weights)} weights, the widest "
                f"of {widest}"
            )
    if "backbone" in config:
        others = (*_WRAP_ARGUMENTS, *_BOUNDED_ELSEWHERE)  # no arguments of the backbone's builder
        arguments = {key: value for key, value in config.items() if key not in others}
        _check_size(str(arguments.pop("backbone")), arguments, weights, path)


def _check_size(name: str, arguments: dict[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    values = sum(value.numel() for value in weights.values())
    for device in ("meta", "cpu"):
        limits = _Limits(count=20_000 + 20 * len(weights), values=2 * 10**8 + 2 * values)
        try:
            with PROCESS_LOCK, torch.device(device), limits:
                create_backbone(name, **arguments)
            return
        except _TooMuchError as error:
            raise CheckpointError(
                f"{path} asks for {name}, which takes {error} than the {len(weights)} weights, of {values} "
                "values, that there are"
            ) from None
        except Exception:  # the builder needs values, which "meta" lacks, or always fails
            continue


class _TooMuchError(Exception):
    """Raised once more is built than the limits allow."""


# The base class has no types in PyTorch, hence the two ignores.
class _Limits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts tensors and their values, and raises an error once there are too many.

    A tensor that is made from a size is counted before it takes memory. For a tensor that is computed from
    others, only the values count, once it is there.
    """

    def __init__(self, count: int, values: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count, self._values = count, values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        new = not any(isinstance(value, Tensor) for value in tree_leaves((args, kwargs)))
        if new:
            sizes = next((value for value in args if isinstance(value, (list, tuple))), ())
            self._take(1, math.prod(size for size in sizes if isinstance(size, int)))
        result = func(*args, **(kwargs or {}))
        if not new and not any(value.alias_info for value in func._schema.returns):  # no view, not in place
            made = [value.numel() for value in tree_leaves(result) if isinstance(value, Tensor)]
            self._take(0, sum(made))
        return result

    def _take(self, count: int, values: int) -> None:
        self._count -= count
        self._values -= values
        if self._count < 0:
            raise _TooMuchError("more layers")
        if self._values < 0:
            raise _TooMuchError("more memory")
