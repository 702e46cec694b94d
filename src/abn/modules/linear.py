"""Applies linear layers to pixels: by their weight, or by a call where the weight cannot be read."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_plain(layer: nn.Module) -> bool:
    """Tells whether the layer does what its weight says, and the weight can be read.

    False for a layer that a tool has changed. Offloading and sharding add hooks or replace ``forward``, to
    fetch the weight for the time of a call. LoRA and quantisation put a layer of another class in its place,
    which computes with more than the weight. Only a call shows what a changed layer does.
    """
    fetched = bool(layer._forward_pre_hooks) or "forward" in vars(layer)
    return type(layer) in (nn.Linear, nn.Conv2d, nn.LayerNorm) and not fetched


def without_bias(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Applies a linear layer or a convolution to inputs, but leaves out the bias."""
    if is_plain(layer):
        operation: Callable[..., Tensor] = F.conv2d if isinstance(layer, nn.Conv2d) else F.linear
        return operation(inputs, layer.weight)
    output: Tensor = layer(inputs) - layer(torch.zeros_like(inputs[:1]))
    return output
