"""Running a network on the meta device: the shapes it produces, at no cost and without touching a weight."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""(C, H, W) of images or features."""

BATCH = 2  # not 1, so that a dimension of 1 is not taken for the batch

Module = TypeVar("Module", bound=nn.Module)


def dry_run(module: nn.Module, shape: Shape) -> Any:
    """What the module returns in evaluation for a batch of this shape, on the meta device."""
    with meta_batch(module, shape) as batch:
        return meta_copy(module)(batch)


def overwrites_input(module: nn.Module, shape: Shape) -> bool:
    """Whether the module changes the batch that it is given in place."""
    with meta_batch(module, shape) as batch:
        version = batch._version
        meta_copy(module)(batch)
        return batch._version != version


def input_shapes(module: nn.Module, layers: Iterable[str], shape: Shape) -> dict[str, Shape]:
    """The shape that each of the layers receives when the module runs on a batch of this shape."""
    shapes: dict[str, Shape] = {}
    skeleton = meta_copy(module)
    for name in layers:
        skeleton.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: shapes.update({name: tuple(inputs[0].shape[1:])})
        )
    with meta_batch(module, shape) as batch:
        skeleton(batch)
    return shapes


def meta_copy(module: Module) -> Module:
    """A copy in evaluation mode without its weights: they are on the meta device."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    attributes = chain.from_iterable(vars(submodule).values() for submodule in module.modules())
    tensors = (value for value in chain(module.buffers(), attributes) if isinstance(value, Tensor))
    memo |= {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    skeleton = copy.deepcopy(module, memo)
    for submodule in skeleton.modules():
        submodule.training = False
    return skeleton


@contextmanager
def meta_batch(module: nn.Module, shape: Shape) -> Iterator[Tensor]:
    """A batch on the meta device in the module's dtype; new tensors are made there too."""
    with torch.no_grad(), torch.device("meta"):
        yield torch.empty((BATCH, *shape), dtype=reference_tensor(module).dtype)


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


def reference_tensor(module: nn.Module) -> Tensor:
    """The first floating-point weight or buffer: its device and dtype are taken for the module's."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
