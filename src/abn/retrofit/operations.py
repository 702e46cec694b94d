"""Logs the tensor operations of a forward in order, so that two ways of running it can be compared."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Names of PyTorch's operations, by what they do.
RESHAPING = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze", "unsqueeze"),
        *("permute", "transpose", "t", "expand", "clone", "contiguous", "detach", "alias", "_to_copy"),
        *("native_dropout", "dropout"),
    }
)
POOLING = frozenset({"mean", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "avg_pool2d"})
SCALING = frozenset({"mul", "div", "add", "sub"})
ACTIVATING = frozenset(
    {
        *("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "gelu", "silu", "mish", "elu"),
        *("leaky_relu", "tanh", "sigmoid", "clamp", "clamp_min"),
    }
)


def name_of(operation: Any) -> str:
    """Returns the name of an operation, without the underscore of operations in place."""
    return str(operation.overloadpacket.__name__).removesuffix("_")


class _Operation(NamedTuple):
    name: str
    inputs: list[Any]
    """Tensors as (shape, source), settings as they are. A source is an operation's index, or a name."""
    memory: set[int]
    """Ids of the memory that its inputs lie in."""
    changed: set[int]
    """Ids of the memory that it changes."""


# PyTorch leaves TorchDispatchMode untyped, hence the two ignores.
class OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, logs each operation on images, weights, buffers, and tensors computed from them.

    Operations on constants alone are left out: a trace runs them only once.
    """

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[_Operation] = []
        # Keeps the tensors alive, so that no other tensor gets one of their ids.
        self._sources: dict[int, tuple[Tensor, int | str]] = {}
        named = {"images": images, **dict(module.named_parameters()), **dict(module.named_buffers())}
        self._sources.update((id(tensor), (tensor, name)) for name, tensor in named.items())
        self._named_memory = _memory_of(named.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = tree_leaves((args, kwargs))
        if any(id(value) in self._sources for value in inputs):
            name = str(func).replace("_.", ".")  # torch.fx turns x += y into x = x + y
            described = [self._describe(value) if isinstance(value, Tensor) else value for value in inputs]
            changed = _memory_of(tree_leaves(_changed(func, args, kwargs or {})))
            self._operations.append(_Operation(name, described, _memory_of(inputs), changed))
            for value in tree_leaves(result):
                if isinstance(value, Tensor):
                    self._sources[id(value)] = (value, len(self._operations) - 1)
        return result

    def _describe(self, tensor: Tensor) -> tuple[tuple[int, ...], int | str]:
        _, source = self._sources.get(id(tensor), (None, "a constant"))
        return tuple(tensor.shape), source

    def leading_to(self, result: Tensor) -> list[str]:
        """Describes the operations that lead to the result, or change the images, a weight or a buffer.

        An operation in place leads to the result if one of these operations reads the changed memory later.
        The operations are numbered anew.
        """
        _, source = self._describe(result)
        needed, read = {source}, self._named_memory | _memory_of([result])
        for index in reversed(range(len(self._operations))):
            _, inputs, memory, changed = self._operations[index]
            if index in needed or changed & read:
                needed |= {index, *(value[1] for value in inputs if isinstance(value, tuple))}
                read |= memory
        order = [index for index in range(len(self._operations)) if index in needed]
        number = {index: f"operation {i}" for i, index in enumerate(order, 1)}

        def text(value: Any) -> str:
            if not isinstance(value, tuple):
                return str(value)
            shape, source = value
            return f"{shape} from {number.get(source, source)}"

        return [
            f"{op.name}({', '.join(map(text, op.inputs))})" for op in map(self._operations.__getitem__, order)
        ]


def _memory_of(values: Iterable[Any]) -> set[int]:
    """Returns ids of the memory that tensors lie in. Tensors with the same id may overlap.

    A sparse tensor counts as memory of its own.
    """
    return {
        value.untyped_storage()._cdata if value.layout == torch.strided else id(value)
        for value in values
        if isinstance(value, Tensor)
    }


def _changed(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Returns the arguments that an operation changes in place."""
    arguments = operation._schema.arguments
    values = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    written = [arg.name for arg in arguments if arg.alias_info is not None and arg.alias_info.is_write]
    return [values.get(name) for name in written]


def first_difference(forward: list[str], trace: list[str]) -> str | None:
    """Returns the first operation in which a trace differs from the forward, or None."""
    for expected, traced in zip([*forward, "the end"], [*trace, "the end"], strict=False):
        if expected != traced:
            return f"{expected} in the forward, {traced} in the trace"
    return None
