"""What a stranger's configuration may ask for: no more than the weights beside it can be of."""

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
_OF_THE_WRAP = (*_COUNTS, "split", "stage", "start", "map", "mechanism", "input_size")
_OTHERS = ("input_size", "preprocessing", "classes")  # bounded where they are read, or by their own length


def check_bounds(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuses a configuration that asks for much more than the weights hold, before memory is taken for it.

    No number of classes, channels or layers is above both the widest dimension of a weight and the number of
    weights. Backbones by name and builders of the user's own have arguments of other kinds too. The former
    are built on the meta device first, for as long as they are not many times what the weights are.

    Raises:
        CheckpointError: If it asks for more.
    """
    widest = max(max(value.shape, default=1) for value in weights.values())
    classes, tasks = config.get("num_classes"), config.get("tasks")
    if isinstance(classes, int) and isinstance(tasks, int):
        config = {**config, "num_classes": classes * tasks}  # scores in all
    for key, value in config.items():
        bound = max(widest, len(weights))
        if key not in _COUNTS and not is_of_this_library(str(config.get("model"))):
            bound = max(bound, LONGEST)  # such as a size of images
        numbers = [number for number in tree_leaves(value) if isinstance(number, int)]
        if key not in _OTHERS and any(abs(number) > bound for number in numbers):
            raise CheckpointError(
                f"{path} asks for {key} {str(value)[:100]}, but there are {len(weights)} weights, the widest "
                f"of {widest}"
            )
    if "backbone" in config:
        arguments = {key: value for key, value in config.items() if key not in (*_OF_THE_WRAP, *_OTHERS)}
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
        except Exception:  # it computes with numbers when it is built, or cannot be built at all
            continue


class _TooMuchError(Exception):
    """More is built than the limits allow."""


# PyTorch leaves its base class untyped, hence the two ignores.
class _Limits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the tensors that are made, and their values; of new ones before they are made."""

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
