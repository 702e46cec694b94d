"""The forms in which a network runs: eager, and as one would deploy it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Form = Callable[[nn.Module, Tensor, str], tuple[nn.Module, Tensor]]
"""Prepares a network and its images. The string names the layer that hooks must still reach."""


def eager(model: nn.Module, images: Tensor, layer: str) -> tuple[nn.Module, Tensor]:
    return model, images


def deployed(model: nn.Module, images: Tensor, layer: str) -> tuple[nn.Module, Tensor]:
    """Compiles with the weights as constants, which folds the batch norms; on a GPU with CUDA graphs."""
    model, images = channels_last(model.bfloat16(), images.bfloat16())
    compiled = torch.compile(model, options={"triton.cudagraphs": images.is_cuda})
    with torch.inference_mode(), torch._inductor.config.patch(freezing=True):
        compiled(images)  # this compiles it
    return compiled, images


def folded(model: nn.Module, images: Tensor, layer: str) -> tuple[nn.Module, Tensor]:
    """Folds batch norms into the convolutions, and asks for gradients only from the layer on."""
    fold_batch_norms(model, images)
    model.requires_grad_(False).get_submodule(layer).requires_grad_(True)
    return channels_last(model, images)


def folded_bfloat16(model: nn.Module, images: Tensor, layer: str) -> tuple[nn.Module, Tensor]:
    model, images = folded(model, images, layer)
    return model.bfloat16(), images.bfloat16()


def compiled_before(model: nn.Module, images: Tensor, layer: str) -> tuple[nn.Module, Tensor]:
    """Compiles the modules before the layer one by one, with their weights as constants."""
    model, images = folded_bfloat16(model, images, layer)
    parent, _, name = layer.rpartition(".")
    for child, part in model.get_submodule(parent).named_children():
        if child == name:
            break
        part.forward = torch.no_grad()(torch.compile(part.forward))
    with torch._inductor.config.patch(freezing=True):
        model(images)  # this compiles them
    return model, images


def channels_last(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    return model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)


def fold_batch_norms(model: nn.Module, images: Tensor) -> None:
    """Folds each batch norm into the convolution whose output it receives. Finds these pairs by a forward."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # keeps the tensors, so that no id is used twice
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def note(convolution: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        made[id(output)] = convolution, output

    def match(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if id(arguments[0]) in made:
            pairs.append((made[id(arguments[0])][0], norm))

    hooks = [m.register_forward_hook(note) for m in names if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(match) for m in names if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model(images[:1])
    for hook in hooks:
        hook.remove()
    for convolution, norm in pairs:
        model.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        model.set_submodule(names[norm], nn.Identity())


FORMS: dict[str, Form] = {"eager": eager, "deployed": deployed}
"""Forms of a network that returns logits and map from one forward."""
METHOD_FORMS: dict[str, Form] = {
    "eager": eager,
    "folded": folded,
    "folded, bfloat16": folded_bfloat16,
    "compiled before": compiled_before,
}
"""Forms of a plain network of which a method makes maps."""
