"""Chooses the layer from which Grad-CAM and its kin make a map."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from abn.network import ABN, LogitsOnly
from abn.retrofit.layouts import MapToTokens, TokensToMap

Reshape = Callable[[Tensor], Tensor]
"""Takes the output of a layer to a map (B, C, h, w)."""


def last_feature_map(model: ABN, images: Tensor) -> tuple[nn.Module, Reshape | None]:
    """Returns the layer of the perception branch with the last output that is a map: as in Grad-CAM.

    Args:
        model: A network in evaluation mode.
        images: One image, (1, C, H, W).

    Returns:
        The layer, and for a network of tokens what makes a map of its output.

    Raises:
        ValueError: If there is none, or it has its channels last, (B, h, w, C).
    """
    to_map = next((m for m in model.feature_extractor.modules() if isinstance(m, TokensToMap)), None)
    if to_map is not None:
        return _last_tokens(model, images, to_map)
    with torch.no_grad():
        outputs, _ = _outputs(model, images)
    found = [each for each in outputs if each[1].ndim == 4 and min(each[1].shape[2:]) > 1]
    if not found:
        raise ValueError(
            "the perception branch computes no feature map, which Grad-CAM needs: cut the backbone earlier"
        )
    layer, output = found[-1]
    shape, (height, width) = output.shape, images.shape[2:]
    if abs(shape[2] - shape[3] * height / width) > 1:  # beyond rounding
        raise ValueError(
            f"the last feature map, of {type(layer).__name__}, has shape {tuple(shape)}, with its channels "
            "last, which torch-cam and grad-cam do not read"
        )
    return layer, None


def _last_tokens(model: ABN, images: Tensor, to_map: TokensToMap) -> tuple[nn.Module, Reshape]:
    """Returns the last layer whose patch tokens the logits depend on, and what makes a map of them.

    Only layers count that return as many tokens, of as many channels, as there are at the split.

    If the classifier reads a class token, the logits do not depend on the other tokens of the last block.
    """
    images = images.detach().clone().requires_grad_()  # the network itself may be frozen
    with torch.enable_grad():
        outputs, logits = _outputs(model, images)
        first = next(output for layer, output in outputs if isinstance(layer, MapToTokens))
        alike = [each for each in outputs if each[1].shape == first.shape]
        gradients = torch.autograd.grad(logits.amax(), [output for _, output in alike], allow_unused=True)

    def reshaped(tokens: Tensor) -> Tensor:
        feature_map: Tensor = to_map(tokens, images)
        return feature_map

    (layer, _), _ = [
        (each, gradient)
        for each, gradient in zip(alike, gradients, strict=True)
        if gradient is not None and reshaped(gradient).any()
    ][-1]
    return layer, reshaped


def _outputs(model: ABN, images: Tensor) -> tuple[list[tuple[nn.Module, Tensor]], Tensor]:
    """Returns the layers of the perception branch with their outputs, and the logits."""
    found: list[tuple[nn.Module, Tensor]] = []

    def remember(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append((module, output))

    hooks = [module.register_forward_hook(remember) for module in model.perception_branch.modules()]
    try:
        logits = LogitsOnly(model)(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found, logits
