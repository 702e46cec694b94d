"""What a backbone's own forward does, seen from outside: what a trace of it can build on, and must equal."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from abn.retrofit.dry_run import OTHER_BATCH, Shape, rehearse, rehearse_on_meta
from abn.retrofit.operations import OperationLog
from abn.retrofit.shallow_tracer import Interpreter, cannot_run, not_logits


class Call(NamedTuple):
    """A call of a submodule."""

    received: list[torch.Size]
    returned: Any


def shapes_in(values: Any) -> list[torch.Size]:
    """Those of the tensors among a call's arguments."""
    return [value.shape for value in tree_leaves(values) if isinstance(value, Tensor)]


@dataclass(frozen=True)
class Forward:
    """What the forward of a backbone does, seen from outside."""

    shape: Shape
    """(C, H, W) of the images."""
    other: Shape
    """Twice the height, or the same if the backbone takes no other."""
    operations: list[str]
    """Those that lead to the logits, for another number of images, and of the other shape."""
    calls: dict[str, dict[str, Call]]
    """What submodules received and returned, by name: for images of this shape (``"val"``) and for those of
    the other (``"other"``). Only where all that is known of a submodule is one call; none if the backbone
    runs for real alone."""


def forward_of(backbone: nn.Module, shape: Shape) -> Forward:
    """Rehearses the backbone's forward.

    Raises:
        CutError: If it does not run on images of this shape, or does not return one tensor.
    """
    channels, height, width = shape
    other = channels, 2 * height, width
    try:
        log, logits, calls = rehearse_on_meta(backbone, other, _watched, OTHER_BATCH)
    except Exception:  # too large for it; or it cannot run on the meta device, and for real would take long
        other = shape
        try:
            log, logits, calls = rehearse(backbone, shape, _watched, OTHER_BATCH)
        except Exception as error:  # the forward is the user's own code, and may fail in any way
            raise cannot_run(backbone, shape, error) from error
    operations = _leading_to_logits(backbone, log, logits)
    try:
        calls_of_shape = rehearse_on_meta(backbone, shape, _calls) if calls else {}
    except Exception:  # too small for it
        calls_of_shape = {}
    return Forward(shape, other, operations, {"val": calls_of_shape, "other": calls})


def graph_operations(backbone: nn.Module, graph: fx.Graph, other: Shape) -> list[str]:
    """What a graph of the backbone does with the images that :attr:`Forward.operations` are for."""

    def run(copy: nn.Module, images: Tensor) -> tuple[OperationLog, Any]:
        return _logged(copy, images, Interpreter(copy, graph=graph).run)

    return _leading_to_logits(backbone, *rehearse(backbone, other, run, OTHER_BATCH))


def _logged(
    backbone: nn.Module, images: Tensor, forward: Callable[[Tensor], Any]
) -> tuple[OperationLog, Any]:
    log = OperationLog(backbone, images)
    with log:
        return log, forward(images)


def _watched(backbone: nn.Module, images: Tensor) -> tuple[OperationLog, Any, dict[str, Call]]:
    # For real, what is recorded would hold memory, and hooks turn off the fast path of PyTorch's attention.
    calls = _record_calls(backbone) if images.is_meta else {}
    return *_logged(backbone, images, backbone), _known(calls)


def _calls(backbone: nn.Module, images: Tensor) -> dict[str, Call]:
    calls = _record_calls(backbone)
    backbone(images)
    return _known(calls)


def _known(calls: dict[str, list[Call]]) -> dict[str, Call]:
    """The calls that can stand for the submodule: one alone, of values that a graph has no way to change."""
    plain = (Tensor, torch.Size, int, float, str, NoneType)
    return {
        name: call
        for name, (call, *more) in calls.items()
        if not more and all(isinstance(leaf, plain) for leaf in tree_leaves(call.returned))
    }


def _leading_to_logits(backbone: nn.Module, log: OperationLog, logits: Any) -> list[str]:
    if not isinstance(logits, Tensor):
        raise not_logits(backbone, logits)
    return log.leading_to(logits)


def _record_calls(module: nn.Module) -> dict[str, list[Call]]:
    """The calls of all submodules: none yet, they come when the module runs. Its hooks stay: give a copy."""
    calls: dict[str, list[Call]] = defaultdict(list)

    def record(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            # Detached, so that it keeps its shape if that of the output is changed in place.
            returned = tree_map_only(Tensor, Tensor.detach, output)
            calls[name].append(Call(shapes_in((args, kwargs)), returned))

        return hook

    for name, submodule in module.named_modules():
        if not isinstance(submodule, torch.jit.ScriptModule):  # which takes no hooks
            submodule.register_forward_hook(record(name), with_kwargs=True)
    return calls
