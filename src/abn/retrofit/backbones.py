"""Builds or copies backbones, and infers the shape of their images."""

import copy
import difflib
from collections.abc import Mapping
from types import ModuleType

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from abn.checkpoint import listed
from abn.preprocessing import LONGEST
from abn.retrofit.dry_run import Shape, dry_run

WEIGHT_SOURCE_ARGUMENTS = frozenset(
    {
        *("pretrained", "checkpoint_path", "cache_dir", "weights", "weights_backbone", "progress"),
        "backbone_weights",
    }
)
"""Arguments that say where weights come from, and change nothing else in the backbone."""


def create_backbone(name: str, **arguments: object) -> nn.Module:
    """Builds ``"timm/<model>"`` or ``"torchvision/<model>"`` with the library's own arguments.

    Raises:
        ValueError: If the library or the model does not exist.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
        create, exists = torchvision.models.get_model, model in known
    elif library == "timm":
        import timm  # only when needed: it takes longer to import than the rest of this module

        known = timm.list_models()
        create, exists = timm.create_model, timm.is_model(model)
    else:
        raise ValueError(f"backbone is {name!r}, expected 'timm/<model>', 'torchvision/<model>' or a module")
    if not exists:
        similar = difflib.get_close_matches(model, known) or ["see its list_models()"]
        raise ValueError(f"{library} has no classifier {model!r}; similar: {', '.join(similar)}")
    backbone: nn.Module = create(model, **arguments)
    return backbone


def asks_for_weights(arguments: Mapping[str, object]) -> bool:
    """Whether these arguments make the library that builds a backbone load weights."""
    return any(arguments.get(name) for name in ("pretrained", "checkpoint_path", "weights"))


def build_or_copy(backbone: nn.Module | str, arguments: dict[str, object]) -> nn.Module:
    """Builds a backbone by name, or copies the caller's module.

    Raises:
        TypeError: If the backbone is neither a module nor a name, is compiled, scripted or distributed, has
            lazy layers that have not run yet, has hooks of a tool, cannot be copied, or is a module that
            came with arguments.
        ValueError: If there is no backbone of this name.
    """
    if isinstance(backbone, str):
        return create_backbone(backbone, **arguments)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone is a {type(backbone).__name__}, expected a module or a name")
    if arguments:
        raise TypeError(f"unexpected arguments {sorted(arguments)}: they serve to build a backbone by name")
    distributed = isinstance(backbone, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    if distributed or hasattr(backbone, "_orig_mod"):
        inner = "module" if distributed else "_orig_mod"
        raise TypeError(
            f"backbone is a {type(backbone).__name__}, expected the network in it: hand over "
            f"backbone.{inner}, and distribute or compile what comes back"
        )
    if isinstance(backbone, torch.jit.ScriptModule):
        raise TypeError(
            "backbone is a ScriptModule, which has no Python to trace: hand over the module behind it"
        )
    if any(isinstance(parameter, UninitializedParameter) for parameter in backbone.parameters()):
        raise TypeError(f"{type(backbone).__name__} has lazy layers: run it once on images before wrapping")
    if compiled := [name for name, module in backbone.named_modules() if hasattr(module, "_orig_mod")]:
        raise TypeError(
            f"{listed(compiled)} of {type(backbone).__name__} are compiled, and would go on with the weights "
            "that they have: hand over the network as it was before, and compile what comes back"
        )
    if tools := _tools_at_work(backbone):
        raise TypeError(
            f"{listed(tools)}: remove the hooks of such a tool before wrapping, or the copy would keep the "
            "tool alive, and all that it holds"
        )
    try:
        return copy.deepcopy(backbone)
    except Exception as error:  # the backbone is the user's own code, and may fail in any way
        computed = [
            f"{name}.{key}".lstrip(".")
            for name, module in backbone.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, Tensor) and value.grad_fn is not None
        ]
        reason = str(error).partition(". ")[0]
        if computed:
            reason = f"it holds tensors that were computed, {listed(computed)}"
        raise TypeError(
            f"{type(backbone).__name__} cannot be copied by copy.deepcopy: {reason}\n"
            "For weights with the old weight_norm or spectral_norm, use those of "
            "torch.nn.utils.parametrizations; make pruned ones permanent, torch.nn.utils.prune.remove(); "
            "delete activations that a forward has stored"
        ) from error


def _tools_at_work(backbone: nn.Module) -> list[str]:
    """Describes the hooks that are methods of a tool, such as an extractor of class activation maps."""
    tools: dict[str, None] = {}
    for name, module in backbone.named_modules():
        for hook in [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]:
            owner = getattr(getattr(hook, "func", hook), "__self__", None)
            if owner is not None and not isinstance(owner, (nn.Module, type, ModuleType)):
                tools[f"{name or 'the backbone'} has a hook of {type(owner).__name__}"] = None
    return list(tools)


def building_arguments(backbone: nn.Module, arguments: dict[str, object]) -> dict[str, object]:
    """Returns the arguments that build the backbone without loading its weights."""
    building = {key: value for key, value in arguments.items() if key not in WEIGHT_SOURCE_ARGUMENTS}
    if isinstance(getattr(backbone, "transform_input", None), bool):
        building["transform_input"] = backbone.transform_input  # torchvision sets it for some weights
    return building


def check_input_size(input_size: int | Shape | None) -> None:
    """Raises a ValueError if ``input_size`` is not None, a number of pixels or (C, H, W)."""
    numbers = (
        input_size if isinstance(input_size, tuple) else (1, 1, 224 if input_size is None else input_size)
    )
    whole = [isinstance(number, int) and not isinstance(number, bool) for number in numbers]
    if whole != [True] * 3 or not all(0 < number <= LONGEST for number in numbers):
        raise ValueError(
            f"input_size is {input_size!r}, expected one number of pixels or (C, H, W), from 1 to {LONGEST}"
        )


def input_shape(backbone: nn.Module, input_size: int | Shape | None) -> Shape:
    """Returns (C, H, W) of the images that the backbone takes.

    What ``input_size`` does not give is read off the backbone: the channels from its first convolution, the
    resolution from its embedding of patches, or from timm's configuration (224 × 224 if there is none).
    """
    if isinstance(input_size, tuple):
        return input_size
    configuration = getattr(backbone, "pretrained_cfg", None) or {}
    _, height, width = configuration.get("input_size", (3, 224, 224))
    for module in backbone.modules():
        size = getattr(module, "img_size", None)  # of an embedding of patches, as timm names it
        if isinstance(size, tuple) and len(size) == 2:
            height, width = size
            break
    if input_size is not None:
        height = width = input_size
    convolution = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    if channels != 3 and not _runs(backbone, (channels, height, width)):
        channels = 3  # something comes before the convolution, such as folding pixels into channels
    return channels, height, width


def _runs(backbone: nn.Module, shape: Shape) -> bool:
    try:
        dry_run(backbone, shape)
    except Exception:  # the forward is the user's own code, and may fail in any way
        return False
    return True
