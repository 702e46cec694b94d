"""The tensor operations of a forward, in order: what two ways of running it must agree on."""

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


# PyTorch leaves its base class untyped, hence the two ignores.
class OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, names every operation on the images, a weight or a buffer, or on what comes of them.

    Each with the shapes of its tensors and its settings. Tensors made of constants alone are left out: a
    trace computes them once.
    """

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self._tensors: dict[int, Any] = {}  # kept alive, so that no id is used twice
        self._add([images, *module.parameters(), *module.buffers()])

    def _add(self, values: list[Any]) -> None:
        self._tensors.update((id(value), value) for value in values if isinstance(value, Tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = tree_leaves((args, kwargs))
        if any(id(value) in self._tensors for value in inputs):
            self._add(tree_leaves(result))
            settings = [tuple(value.shape) if isinstance(value, Tensor) else value for value in inputs]
            name = str(func).replace("_.", ".")  # torch.fx turns x += y into x = x + y
            self.names.append(f"{name}{tuple(settings)}")
        return result


def first_difference(forward: list[str], trace: list[str]) -> str | None:
    """The first operation in which a trace differs from the forward, if there is one."""
    for one, other in zip([*forward, "the end"], [*trace, "the end"], strict=False):
        if one != other:
            return f"{one} in the forward, {other} in the trace"
    return None
