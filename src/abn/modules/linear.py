"""Linear layers whose weight may not be at hand: what they do to each pixel, by a call or by the weight."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_plain(layer: nn.Module) -> bool:
    """Whether the layer does what its weight says, and the weight can be read.

    Not so where something was put around the layer: hooks before it or another forward, which fetch the
    weight for the time of a call (offloading, sharding), or another class, with more than the weight in it
    (LoRA, quantisation). Such a layer has to be called.
    """
    fetched = bool(layer._forward_pre_hooks) or "forward" in vars(layer)
    return type(layer) in (nn.Linear, nn.Conv2d, nn.LayerNorm) and not fetched


def without_bias(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a linear layer or a convolution makes of its inputs, but for the bias."""
    if is_plain(layer):
        operation: Callable[..., Tensor] = F.conv2d if isinstance(layer, nn.Conv2d) else F.linear
        return operation(inputs, layer.weight)
    output: Tensor = layer(inputs) - layer(torch.zeros_like(inputs[:1]))
    return output
