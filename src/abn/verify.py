"""Whether the parts of a cut backbone do together what its forward does."""

from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abn.dry_run import Shape, rehearse


def first_difference(
    backbone: nn.Module, feature_extractor: nn.Module, tail: nn.Module, shape: Shape
) -> str | None:
    """The first tensor operation in which ``tail(feature_extractor(x))`` differs from ``backbone(x)``.

    A trace can lose what its forward does: hooks and instance methods on the backbone, branches on the type
    of a tensor, changes in place whose result is not used. Both are run, on the meta device where possible,
    and every operation on the images, weights or buffers compared by name, shapes and settings.

    Returns:
        The operation, or none if they do the same.
    """

    def run(parts: nn.Module, images: Tensor) -> str | None:
        plain, extractor, rest = parts.children()
        with _OperationLog(parts, images) as expected:
            plain(images)
        with _OperationLog(parts, images) as found:
            rest(extractor(images))
        for one, other in zip([*expected.names, "its end"], [*found.names, "its end"], strict=False):
            if one != other:
                return f"{one} in the forward, {other} in the trace"
        return None

    return rehearse(nn.ModuleList([backbone, feature_extractor, tail]), shape, run)


class _OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names every operation that depends on the images, a weight or a buffer."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.tensors: dict[int, Any] = {}  # what depends on them, kept alive so that no id is used twice
        self._add([images, *module.parameters(), *module.buffers()])

    def _add(self, tensors: list[Any]) -> None:
        self.tensors.update((id(tensor), tensor) for tensor in tensors if isinstance(tensor, Tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tree_leaves((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if any(id(value) in self.tensors for value in inputs):
            self._add(tree_leaves(result))
            settings = [tuple(v.shape) if isinstance(v, Tensor) else v for v in inputs]
            self.names.append(f"{func}{tuple(settings)}")
        return result
