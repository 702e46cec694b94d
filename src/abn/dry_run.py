"""Rehearsing a network: what it does with a batch, found out without touching it and mostly at no cost."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

Shape = tuple[int, int, int]
"""(C, H, W) of images or features."""

BATCH, OTHER_BATCH = 5, 7  # hardly ever the size of another dimension

T = TypeVar("T")


def rehearse(
    module: nn.Module, shape: Shape, run: Callable[[nn.Module, Tensor], T], batch_size: int = BATCH
) -> T:
    """Calls ``run`` with a copy of the module in evaluation mode and a batch of this shape.

    On the meta device, where nothing is computed; for real only where that fails, because a forward looks
    at values or makes tensors elsewhere. What then fails raises whatever the module raises.
    """
    batch = torch.zeros((batch_size, *shape), dtype=_reference(module).dtype, device=device_of(module))
    with torch.no_grad():
        try:
            with _QuickShapes():
                return run(_evaluating(_meta_copy(module)), batch.to("meta"))
        except Exception:  # the module may be the user's own code, and fail in any way
            return run(_evaluating(copy.deepcopy(module)), batch)


def dry_run(module: nn.Module, shape: Shape) -> Any:
    """What the module returns in evaluation for a batch of this shape. Only its shapes and dtypes count."""
    return rehearse(module, shape, lambda rehearsed, batch: rehearsed(batch))


def other_shape(module: nn.Module, shape: Shape) -> Shape:
    """Another shape that the module takes: twice the height. The same one, if it takes no other."""
    channels, height, width = shape
    taller = channels, 2 * height, width
    try:
        with torch.no_grad(), _QuickShapes():
            _evaluating(_meta_copy(module))(
                torch.zeros(OTHER_BATCH, *taller, dtype=_reference(module).dtype, device="meta")
            )
    except Exception:  # too large for it; or it cannot run on the meta device, and for real would take long
        return shape
    return taller


def overwrites_input(module: nn.Module, shape: Shape) -> bool:
    """Whether the module changes the batch that it is given in place, in either mode."""

    def run(rehearsed: nn.Module, batch: Tensor) -> bool:
        version = batch._version
        for training in (False, True):
            with training_mode(rehearsed, training):
                rehearsed(batch)
        return batch._version != version

    return rehearse(module, shape, run)


def input_shapes(module: nn.Module, layers: Iterable[str], shape: Shape) -> dict[str, Any]:
    """The shape that each of the layers receives, without B, in the order in which they are called."""

    def run(rehearsed: nn.Module, batch: Tensor) -> dict[str, Any]:
        shapes: dict[str, Any] = {}

        def record(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                shapes.setdefault(name, tuple((*args, *kwargs.values())[0].shape[1:]))

            return hook

        for name in layers:
            rehearsed.get_submodule(name).register_forward_pre_hook(record(name), with_kwargs=True)
        rehearsed(batch)
        return shapes

    return rehearse(module, shape, run)


@contextmanager
def training_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Sets the mode of every submodule, and gives each back its own: a batch norm may be frozen."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    try:
        for submodule in modes:
            submodule.training = training
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


# PyTorch leaves its base class untyped, hence the two ignores.
class _QuickShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers at once for the operations that take PyTorch most of a rehearsal.

    It finds the shapes of their results by running a dozen operations in Python, though they are those of
    their input.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (aten.hardswish.default, aten.hardsigmoid.default, aten.gelu.default):
            return torch.empty_like(args[0])
        if func is aten.hardswish_.default:
            return args[0]
        if func is aten.native_batch_norm.default:
            images, _, _, running_mean, *_ = args
            if running_mean is None or running_mean.shape == images.shape[1:2]:
                statistics = images.new_empty(images.shape[1])
                return torch.empty_like(images), statistics, statistics
        return func(*args, **(kwargs or {}))


def _meta_copy(module: nn.Module) -> nn.Module:
    """A copy without its weights: they are on the meta device."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    attributes = chain.from_iterable(vars(submodule).values() for submodule in module.modules())
    tensors = (value for value in chain(module.buffers(), attributes) if isinstance(value, Tensor))
    memo |= {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    return copy.deepcopy(module, memo)


def _evaluating(module: nn.Module) -> nn.Module:
    for submodule in module.modules():
        submodule.training = False
    return module


def _reference(module: nn.Module) -> Tensor:
    """The first floating-point weight or buffer: its device and dtype are taken for those of the input."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's weights."""
    return _reference(module).device
