"""Reading the classifier of a backbone off what follows its last feature map."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abn.dry_run import Shape, device_of, rehearse
from abn.pooled_classifier import PooledClassifier

Call = tuple[str, torch.Size]
"""Name of a submodule, and the shape that it receives, without B."""


def read_classifier(head: nn.Module, features: Shape) -> PooledClassifier | None:
    """Reads the classifier off what follows the last feature map, in evaluation.

    Affine maps are read off what they make of zeros and ones, so that it does not matter how they are
    written: batch norms, 1×1 convolutions, the mean of two classifiers.

    Args:
        head: Takes the last feature map (B, C, H, W) to logits (B, K).
        features: (C, H, W).

    Returns:
        The classifier, with weights of its own; or none if something else than the mean over the pixels,
        affine maps, layer norms and activations lies in the head.
    """
    try:
        steps = rehearse(head, features, _steps_of)
        return PooledClassifier(_layers(copy.deepcopy(head).eval().float(), steps, features[0]))
    except (_NotPooledError, RuntimeError):  # the latter of a pool that does not run on single pixels
        return None


class _NotPooledError(Exception):
    """The head is more than the mean over the pixels, affine maps, layer norms and activations."""


# Names of operations of PyTorch.
_RESHAPING = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze", "unsqueeze"),
        *("permute", "transpose", "t", "expand", "clone", "contiguous", "detach", "alias", "_to_copy"),
        *("native_dropout", "dropout"),
    }
)
_POOLING = frozenset({"mean", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "avg_pool2d"})
_AFFINE_IN_ONE = frozenset(
    {"addmm", "mm", "linear", "convolution", "native_batch_norm", "mul", "div", "select", "slice"}
)
"""Affine if only one of what they combine depends on the image."""
_AFFINE_IN_ALL = frozenset({"add", "sub", "cat", "stack"})
_ACTIVATING = frozenset(
    {
        *(
            "relu",
            "relu6",
            "hardtanh",
            "hardswish",
            "hardsigmoid",
            "gelu",
            "silu",
            "mish",
            "elu",
            "leaky_relu",
        ),
        *("tanh", "sigmoid", "clamp", "clamp_min", "mul", "div", "add", "sub"),
    }
)


# PyTorch leaves its base class untyped, hence the two ignores.
class _Steps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows a head from the last feature map on, and refuses what is not as expected.

    What lies between two nonlinear submodules is one affine map, a segment.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nonlinear: list[Call] = []
        """Layer norms and activations in the order of their calls, and the shapes that they receive."""
        self.computes = [False]
        """Of each segment, whether it is more than another shape of the same numbers."""
        self._pooled_numbers = images.shape[:2].numel()
        self._pooled = False
        self._operations: list[str] | None = None  # of a submodule that may be an activation
        self._segments: dict[int, tuple[Tensor, int]] = {}  # keeps the tensors, so that their ids stay theirs
        self._note(images)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if id(value) in self._segments]
        if given:
            self._check(func.overloadpacket.__name__.removesuffix("_"), given, result)
            self._note(result)
        return result

    def _note(self, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self._segments[id(value)] = (value, len(self.nonlinear))

    def _check(self, name: str, given: list[Tensor], result: Any) -> None:
        if any(self._segments[id(value)][1] != len(self.nonlinear) for value in given):
            raise _NotPooledError(f"{name} goes past a nonlinear layer")
        if not self._pooled:
            if name in _POOLING and result.numel() == self._pooled_numbers:
                self._pooled = True
            elif name not in _RESHAPING:
                raise _NotPooledError(f"{name} comes before the mean")
        elif self._operations is not None:
            self._operations.append(name)
        elif name in _AFFINE_IN_ALL or (name in _AFFINE_IN_ONE and len(given) == 1):
            self.computes[-1] = True
        elif name not in _RESHAPING | _POOLING:  # pooling once more changes nothing
            raise _NotPooledError(f"{name} is not affine")

    def enter(self, layer: nn.Module) -> None:
        """A submodule without submodules is about to run."""
        if self._pooled and (isinstance(layer, nn.LayerNorm) or not layer.state_dict()):
            self._operations = []

    def leave(self, name: str, layer: nn.Module, arguments: tuple[Tensor, ...], returned: Tensor) -> None:
        """It has run."""
        operations, self._operations = self._operations, None
        if operations is None:
            return
        received = arguments[0]
        if isinstance(layer, nn.LayerNorm):
            if received.numel() != received.shape[0] * math.prod(layer.normalized_shape):
                raise _NotPooledError("the layer norm is not over all channels")
        elif _RESHAPING.union(_POOLING).issuperset(operations):
            return
        elif not _ACTIVATING.issuperset(operations) or received.shape != returned.shape:
            raise _NotPooledError(f"{type(layer).__name__} is no activation")
        if name in dict(self.nonlinear):
            raise _NotPooledError(f"{name} is called twice")
        self.nonlinear.append((name, received.shape[1:]))
        self.computes.append(False)
        self._note(returned)


def _steps_of(head: nn.Module, images: Tensor) -> _Steps:
    steps = _Steps(images)
    for name, layer in head.named_modules():
        if not list(layer.children()):
            layer.register_forward_pre_hook(lambda layer, _: steps.enter(layer))
            layer.register_forward_hook(
                lambda layer, args, returned, name=name: steps.leave(name, layer, args, returned)
            )
    with steps:
        head(images)
    return steps


@torch.no_grad()
def _layers(head: nn.Module, steps: _Steps, channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before: Call | None = None
    for computes, after in zip(steps.computes, [*steps.nonlinear, None], strict=True):
        if computes:
            layers.append(_affine_map(head, before, after, channels))
        if after is not None:
            layer = head.get_submodule(after[0])
            layers.append(_norm_of_vectors(layer) if isinstance(layer, nn.LayerNorm) else _activation(layer))
        before = after
    return layers


def _affine_map(
    head: nn.Module,
    before: tuple[str, torch.Size] | None,
    after: tuple[str, torch.Size] | None,
    channels: int,
) -> nn.Linear:
    """What the head computes between two nonlinear layers, or from its beginning, or to its end."""
    device = device_of(head)
    width = channels if before is None else before[1].numel()
    rows = torch.cat([torch.zeros(1, width, device=device), torch.eye(width, device=device)])
    captured: list[Tensor] = []
    handles = []
    images = torch.zeros(len(rows), channels, 1, 1, device=device)
    if before is None:
        images = rows.view_as(images)
    else:
        name, shape = before
        handles.append(head.get_submodule(name).register_forward_hook(lambda *_: rows.view(-1, *shape)))
    if after is not None:
        handles.append(
            head.get_submodule(after[0]).register_forward_pre_hook(
                lambda _, args: captured.append(args[0].clone())
            )
        )
    output = head(images)
    for handle in handles:
        handle.remove()
    constant, *columns = (captured[0] if captured else output).flatten(1)
    linear = nn.Linear(width, len(constant), device=device)
    linear.weight.copy_((torch.stack(columns) - constant).T)
    linear.bias.copy_(constant)
    return linear


def _norm_of_vectors(layer: nn.LayerNorm) -> nn.LayerNorm:
    """The same layer norm for (B, C), whatever layout the head's own is for."""
    norm = nn.LayerNorm(layer.normalized_shape, layer.eps, layer.elementwise_affine, device=device_of(layer))
    norm.load_state_dict(layer.state_dict())
    return norm


def _activation(layer: nn.Module) -> nn.Module:
    activation = copy.deepcopy(layer)
    if getattr(activation, "inplace", False):
        setattr(activation, "inplace", False)  # noqa: B010 - unknown to the type of a module
    return activation
