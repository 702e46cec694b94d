"""Rehearses a network: runs a copy without weights, which tells the shapes at almost no cost."""

import copy
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from abn.lock import PROCESS_LOCK
from abn.modules.features import Features

aten = torch.ops.aten

Shape = tuple[int, int, int]
"""(C, H, W) of images or features."""

Example = Shape | Features
"""(C, H, W), or features for a batch of :data:`BATCH` images whose values have no meaning."""

BATCH, OTHER_BATCH = 5, 7
"""Two numbers of images for rehearsals. Hardly any other dimension of a tensor has one of these sizes."""

T = TypeVar("T")


def rehearse(
    module: nn.Module, example: Example, run: Callable[[nn.Module, Any], T], batch_size: int = BATCH
) -> T:
    """Calls ``run`` with a copy of the module, in evaluation mode, and a batch of zeros. Returns its result.

    The first call is on the meta device, where tensors have shapes but no values, and nothing is computed. If
    it fails, because a forward looks at values or makes tensors on another device, ``run`` is called again,
    for real.

    Args:
        module: Any network. It is not changed.
        example: (C, H, W) of the batch, or features.
        run: A function of the copy and the batch. It may be called twice.
        batch_size: Number B of images in the batch, if the example is no :class:`Features`.

    Raises:
        Exception: Any error that ``run`` raises when it is called for real.
    """
    try:
        return rehearse_on_meta(module, example, run, batch_size)
    except Exception:  # the module may be the user's own code, and fail in any way
        batch = _batch(module, example, batch_size, device_of(module))
        with PROCESS_LOCK, torch.no_grad():  # dispatch modes, which `run` may use, need the lock
            return run(_evaluating(copy.deepcopy(module)), batch)


def rehearse_on_meta(
    module: nn.Module, example: Example, run: Callable[[nn.Module, Any], T], batch_size: int = BATCH
) -> T:
    """Calls ``run`` as :func:`rehearse` does, but on the meta device alone. Raises its errors."""
    with _collector_paused():
        rehearsed = _evaluating(_without_weights(module))
        batch = _batch(module, example, batch_size, torch.device("meta"))
        with PROCESS_LOCK, torch.no_grad(), _QuickShapes():
            return run(rehearsed, batch)


def dry_run(module: nn.Module, example: Example) -> Any:
    """Returns the module's output for images or features such as the example. Its values have no meaning."""
    return rehearse(module, example, lambda rehearsed, batch: rehearsed(batch))


def overwrites_input(module: nn.Module, example: Example) -> bool:
    """Whether the module changes its input in place, in evaluation or in training mode."""

    def run(rehearsed: nn.Module, batch: Any) -> bool:
        received = [value for value in tree_leaves(batch) if isinstance(value, Tensor)]
        versions = [value._version for value in received]
        for training in (False, True):
            with training_mode(rehearsed, training):
                rehearsed(batch)
        return versions != [value._version for value in received]

    return rehearse(module, example, run)


def input_shapes(module: nn.Module, layers: Iterable[str], shape: Shape) -> dict[str, Any]:
    """Returns the shape that each layer receives, without B, in the order of the layers' first calls."""
    return {name: received for name, (received, _) in call_shapes(module, layers, shape).items()}


def call_shapes(module: nn.Module, layers: Iterable[str], shape: Shape) -> dict[str, tuple[Any, Any]]:
    """Returns the shapes that each layer receives and returns, without B, in the order of the first calls."""

    def run(rehearsed: nn.Module, batch: Tensor) -> dict[str, tuple[Any, Any]]:
        shapes: dict[str, tuple[Any, Any]] = {}

        def record(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                shapes.setdefault(name, (_sizes((*args, *kwargs.values())[0]), _sizes(output)))

            return hook

        for name in layers:
            rehearsed.get_submodule(name).register_forward_hook(record(name), with_kwargs=True)
        rehearsed(batch)
        return shapes

    return rehearse(module, shape, run)


def _sizes(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else None


@contextmanager
def training_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Sets the mode of every submodule, and restores each submodule's own mode afterwards.

    The modes may differ, because a batch norm may be frozen.
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    try:
        for submodule in modes:
            submodule.training = training
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


# PyTorch leaves TorchDispatchMode untyped, hence the two ignores.
class _QuickShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the shape that an operation returns for given arguments, and does not compute it twice.

    To find one shape, PyTorch runs a dozen operations in Python, and the blocks of a network are often alike.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.native_batch_norm.default:  # the slowest operation, and the most frequent
            images, _, _, running_mean, *_ = args
            if running_mean is None or running_mean.shape == images.shape[1:2]:
                statistics = images.new_empty(images.shape[1])
                return torch.empty_like(images), statistics, statistics
        aliases = [argument.alias_info for argument in (*func._schema.arguments, *func._schema.returns)]
        in_place = bool(aliases) and aliases[0] is not None and aliases[0].is_write
        if any(aliases) and not (in_place and isinstance(args[0], Tensor)):  # a view must share memory
            return func(*args, **kwargs)
        call = func, _described(args), _described(kwargs)
        if call in self._known:
            known = self._known[call]
            return args[0] if in_place else tree_map(_empty, known, is_leaf=lambda x: isinstance(x, _Layout))
        before = _layout(args[0]) if in_place else None
        result = func(*args, **kwargs)
        if all(isinstance(value, Tensor) and value.is_meta for value in tree_leaves(result)):
            layouts = tree_map(_layout, result)
            if before in (None, layouts):  # unsqueeze_() changes the layout in place: not remembered
                self._known[call] = layouts
        return result


class _Layout(NamedTuple):
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _layout(tensor: Tensor) -> _Layout:
    return _Layout(tensor.shape, tensor.stride(), tensor.dtype)


def _empty(layout: _Layout) -> Tensor:
    return torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device="meta")


def _described(value: Any) -> Any:
    """Returns a key for an argument. Arguments with equal keys lead to results of equal shape and dtype."""
    if isinstance(value, Tensor):
        return _layout(value), value.device
    if isinstance(value, (tuple, list)):
        return tuple(map(_described, value))
    if isinstance(value, dict):
        return tuple((key, _described(item)) for key, item in value.items())
    return type(value), value  # 1 == 1.0, but a tensor plus 1 may have another dtype than plus 1.0


def _without_values(tensor: Tensor) -> Tensor:
    """Returns a tensor on the meta device with the shape, dtype and layout of ``tensor``."""
    twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def _without_weights(module: nn.Module) -> nn.Module:
    """Copies a module, with its weights and all its other tensors on the meta device."""
    memo: dict[int, Any] = {}
    attributes = [value for submodule in module.modules() for value in vars(submodule).values()]
    for value in chain(attributes, module.buffers(), module.parameters()):
        if isinstance(value, Tensor):
            memo[id(value)] = _without_values(value)
        elif type(value) in (dict, OrderedDict, set) and not value:
            memo[id(value)] = type(value)()  # each module has a dozen, which take most of deepcopy's time
    return copy.deepcopy(module, memo)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pauses the garbage collector, which otherwise takes a third of the time of wrapping a backbone.

    Wrapping makes very many small objects, and each run of the collector goes through all objects of the
    process.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _evaluating(module: nn.Module) -> nn.Module:
    for submodule in module.modules():
        submodule.training = False
    return module


def _batch(module: nn.Module, example: Example, batch_size: int, device: torch.device) -> Any:
    """Returns zeros for the module to run on."""
    if isinstance(example, Features):
        return tree_map(lambda v: torch.zeros_like(v, device=device) if isinstance(v, Tensor) else v, example)
    return torch.zeros((batch_size, *example), dtype=_first_tensor(module).dtype, device=device)


def _first_tensor(module: nn.Module) -> Tensor:
    """Returns the first floating-point weight or buffer. Images get its device and dtype."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of the module's weights."""
    return _first_tensor(module).device
