"""Reads the classifier of a backbone off its head, the part behind its last feature map."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abn.modules.features import Features
from abn.modules.pooled_classifier import PooledClassifier
from abn.retrofit.dry_run import Example, Shape, device_of, rehearse
from abn.retrofit.operations import ACTIVATING, POOLING, RESHAPING, SCALING, name_of

Call = tuple[str, torch.Size]
"""Name of a submodule, and the shape that it receives, without B."""


def read_classifier(head: nn.Module, features: Example) -> PooledClassifier | None:
    """Reads the classifier off a backbone's head, in evaluation mode.

    Affine maps are read off their outputs for zeros and ones. So it does not matter how they are written: as
    batch norms, as 1×1 convolutions, or as the mean of two classifiers.

    Args:
        head: A module that takes the last feature map (B, C, H, W) to logits (B, K).
        features: (C, H, W) of the last feature map, or what else the head takes.

    Returns:
        The classifier, with weights of its own. None if the head does anything but average over the pixels
        and apply affine maps, layer norms and activations, or takes more than the feature map, such as a
        class token.
    """
    if isinstance(features, Features):
        return None
    try:
        steps = rehearse(head, features, _steps_of)
        if steps is None:
            return None
        head = copy.deepcopy(head).eval().float()
        classifier = PooledClassifier(_layers(head, steps, features[0]))
        return classifier if _agree(classifier, head, features) else None
    except Exception:  # the head may be the user's own code, and fail in any way on single pixels
        return None


@torch.no_grad()
def _agree(classifier: PooledClassifier, head: nn.Module, features: Shape) -> bool:
    """Whether the classifier gives the head's logits for random features.

    The operations of the head do not show everything. For example, they do not show a change in place.
    """
    if device_of(head).type == "meta":
        return True
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.randn(3, *features, generator=generator, device="cpu").to(device_of(head))
    expected = head(images)
    tolerance = 1e-3 * expected.abs().max().item() + 1e-6
    return torch.allclose(classifier(images.mean(dim=(2, 3))), expected, rtol=0, atol=tolerance)


class _NotPooledError(Exception):
    """The head does more than average over the pixels and apply affine maps, layer norms and activations."""


_AFFINE_IN_ONE = frozenset(
    {"addmm", "mm", "linear", "convolution", "native_batch_norm", "mul", "div", "select", "slice"}
)
"""Operations that are affine if only one of their inputs depends on the image."""
_AFFINE_IN_ALL = frozenset({"add", "sub", "cat", "stack"})
"""Operations that are affine in all their inputs together."""


# PyTorch leaves TorchDispatchMode untyped, hence the two ignores.
class _Steps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows the operations of a head from the last feature map on.

    Raises a _NotPooledError if the head does anything that a :class:`PooledClassifier` does not. The
    operations between two nonlinear submodules are one affine map, called a segment.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nonlinear: list[Call] = []
        """Layer norms and activations in the order of their calls, with the shapes that they receive."""
        self.computes = [False]
        """For each segment: whether it computes anything, or only reshapes."""
        self._pooled_numbers = images.shape[:2].numel()
        self._operations: list[str] | None = None  # of the running submodule, if it may be nonlinear
        # Keeps the tensors alive, so that no other tensor gets one of their ids. Before the mean over the
        # pixels, tensors belong to segment -1.
        self._segments: dict[int, tuple[Tensor, int]] = {id(images): (images, -1)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [value for value in tree_leaves((args, kwargs)) if id(value) in self._segments]
        if inputs:
            self.note(result, self._segment(name_of(func), inputs, args, result))
        return result

    def note(self, values: Any, segment: int) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self._segments[id(value)] = (value, segment)

    def _segment(self, name: str, inputs: list[Tensor], args: Any, result: Any) -> int:
        """Returns the index of the segment that the result of an operation belongs to."""
        segments = {self._segments[id(value)][1] for value in inputs}
        current = len(self.nonlinear)
        if segments == {-1} and name in RESHAPING:
            return -1
        if segments == {-1} and name in POOLING and result.numel() == self._pooled_numbers:
            return 0
        if segments != {current}:
            raise _NotPooledError(f"{name} comes before the mean, or goes past a nonlinear layer")
        if self._operations is not None:
            self._operations.append(name)
        elif name in _AFFINE_IN_ALL or (name in _AFFINE_IN_ONE and len(inputs) == 1):
            divides = name == "div" and id(args[0]) not in self._segments
            if divides or (name == "native_batch_norm" and args[5]):  # args[5]: uses statistics of the batch
                raise _NotPooledError(f"{name} is not affine")
            self.computes[-1] = True
        elif name in POOLING:
            self.computes[-1] |= result.numel() != inputs[0].numel()
        elif name not in RESHAPING:
            raise _NotPooledError(f"{name} is not affine")
        return current

    def enter(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Called before a submodule without children runs. Collects its operations if it may be nonlinear."""
        pooled = self._segments.get(id(arguments[0]) if arguments else 0, (None, -1))[1] >= 0
        if pooled and (isinstance(layer, nn.LayerNorm) or not layer.state_dict()):
            self._operations = []

    def leave(self, name: str, layer: nn.Module, arguments: tuple[Any, ...], returned: Tensor) -> None:
        """Called after the submodule has run. If it was nonlinear, a new segment begins."""
        operations, self._operations = self._operations, None
        if operations is None:
            return
        received = arguments[0]
        if isinstance(layer, nn.LayerNorm):
            if received.numel() != received.shape[0] * math.prod(layer.normalized_shape):
                raise _NotPooledError("the layer norm is not over all channels")
        elif RESHAPING.union(POOLING).issuperset(operations):
            return
        elif not (ACTIVATING | SCALING).issuperset(operations) or received.shape != returned.shape:
            raise _NotPooledError(f"{type(layer).__name__} is no activation")
        if name in dict(self.nonlinear):
            raise _NotPooledError(f"{name} is called twice")
        self.nonlinear.append((name, received.shape[1:]))
        self.computes.append(False)
        self.note(returned, len(self.nonlinear))


def _steps_of(head: nn.Module, images: Tensor) -> _Steps | None:
    """Runs the head and returns its steps, or None if it does more than a pooled classifier."""
    steps = _Steps(images)
    for name, layer in head.named_modules():
        if not list(layer.children()):
            layer.register_forward_pre_hook(steps.enter)
            layer.register_forward_hook(
                lambda layer, args, returned, name=name: steps.leave(name, layer, args, returned)
            )
    try:
        with steps:
            head(images)
    except _NotPooledError:
        return None
    return steps


@torch.no_grad()
def _layers(head: nn.Module, steps: _Steps, channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before: Call | None = None
    for computes, after in zip(steps.computes, [*steps.nonlinear, None], strict=True):
        if computes or (after is None and not layers):
            layers.append(_affine_map(head, before, after, channels))
        if after is not None:
            layer = head.get_submodule(after[0])
            layers.append(_norm_of_vectors(layer) if isinstance(layer, nn.LayerNorm) else _activation(layer))
        before = after
    return layers


def _affine_map(head: nn.Module, before: Call | None, after: Call | None, channels: int) -> nn.Linear:
    """Reads the affine map that the head computes between two nonlinear layers.

    If ``before`` is None, the map starts with the head. If ``after`` is None, it ends with the head.
    """
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
    """Builds a layer norm for (B, C) with the weights of ``layer``, which may be for another layout."""
    affine, bias = layer.weight is not None, layer.bias is not None
    norm = nn.LayerNorm(layer.normalized_shape, layer.eps, affine, bias, device=device_of(layer))
    norm.load_state_dict(layer.state_dict())
    return norm


def _activation(layer: nn.Module) -> nn.Module:
    activation = copy.deepcopy(layer)
    # Only an activation that is 0 at 0 multiplies its input by a factor.
    if activation(torch.zeros(1, device="cpu")).item() != 0:
        raise _NotPooledError(f"{type(layer).__name__} is not 0 at 0")
    if getattr(activation, "inplace", False):
        setattr(activation, "inplace", False)  # noqa: B010 - unknown to the type of a module
    return activation
