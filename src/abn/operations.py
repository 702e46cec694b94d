"""The tensor operations of a forward, in order: what two ways of running it must agree on."""

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


# PyTorch leaves its base class untyped, hence the two ignores.
class OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, notes each operation on the images, a weight or a buffer, or on what comes of them.

    Each with its settings and, for its tensors, their shape and the operation they come from. Tensors made
    of constants alone are left out: a trace computes them once.
    """

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: list[str] = []
        self._sources: dict[
            int, tuple[Any, str]
        ] = {}  # the tensor is kept alive, so that no id is used twice
        given = {"images": images, **dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, tensor in given.items():
            self._sources[id(tensor)] = (tensor, name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = tree_leaves((args, kwargs))
        if any(id(value) in self._sources for value in inputs):
            name = str(func).replace("_.", ".")  # torch.fx turns x += y into x = x + y
            self.entries.append(f"{name}({', '.join(map(self._describe, inputs))})")
            for value in tree_leaves(result):
                if isinstance(value, Tensor):
                    self._sources[id(value)] = (value, f"operation {len(self.entries)}")
        return result

    def _describe(self, value: Any) -> str:
        if not isinstance(value, Tensor):
            return str(value)
        _, source = self._sources.get(id(value), (None, "constant"))
        return f"{tuple(value.shape)} from {source}"


def first_difference(forward: list[str], trace: list[str]) -> str | None:
    """The first operation in which a trace differs from the forward, if there is one."""
    for one, other in zip([*forward, "the end"], [*trace, "the end"], strict=False):
        if one != other:
            return f"{one} in the forward, {other} in the trace"
    return None
