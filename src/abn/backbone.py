"""What is asked of a backbone before it is cut: a name becomes a network, a network its input and classes."""

import difflib
from itertools import chain
from typing import Any, cast

import torchvision
from torch import Tensor, nn

from abn.dry_run import Shape, dry_run, input_shapes
from abn.tracer import cannot_run, not_logits

FETCHING = frozenset(
    {"pretrained", "checkpoint_path", "cache_dir", "weights", "weights_backbone", "progress"}
)
"""Arguments that tell the libraries to fetch weights, and change nothing else."""


def create_backbone(name: str, **arguments: object) -> nn.Module:
    """Builds ``"timm/<model>"`` or ``"torchvision/<model>"`` with the library's own arguments.

    Raises:
        ValueError: If there is no such library or model.
    """
    library, _, model = name.partition("/")
    if library == "torchvision":
        known = torchvision.models.list_models(module=torchvision.models)
        create, exists = torchvision.models.get_model, model in known
    elif library == "timm":
        import timm  # takes longer to import than everything else here together

        known = timm.list_models()
        create, exists = timm.create_model, timm.is_model(model)
    else:
        raise ValueError(f"backbone is {name!r}, expected 'timm/<model>', 'torchvision/<model>' or a module")
    if not exists:
        similar = difflib.get_close_matches(model, known) or ["see its list_models()"]
        raise ValueError(f"{library} has no classifier {model!r}; similar: {', '.join(similar)}")
    backbone: nn.Module = create(model, **arguments)
    return backbone


def check_input_size(input_size: int | Shape | None) -> None:
    """Raises a ValueError if this is not a size of images."""
    numbers = (
        input_size if isinstance(input_size, tuple) else (1, 1, 224 if input_size is None else input_size)
    )
    if len(numbers) != 3 or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise ValueError(f"input_size is {input_size!r}, expected one number of pixels or (C, H, W)")


def input_shape(backbone: nn.Module, input_size: int | Shape | None) -> Shape:
    """(C, H, W) of the images that the backbone takes.

    What is not given is read off the backbone: the channels from its first convolution, the resolution
    from timm's configuration (224 × 224 if there is none).
    """
    if isinstance(input_size, tuple):
        return input_size
    configuration = getattr(backbone, "pretrained_cfg", None) or {}
    _, height, width = configuration.get("input_size", (3, 224, 224))
    if input_size is not None:
        height = width = input_size
    convolution = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    if channels != 3 and not _runs(backbone, (channels, height, width)):
        channels = 3  # something comes before that convolution, such as pixels folded into channels
    return channels, height, width


def _runs(backbone: nn.Module, shape: Shape) -> bool:
    try:
        dry_run(backbone, shape)
    except Exception:  # the forward is the user's own code, and may fail in any way
        return False
    return True


def replace_classifier(backbone: nn.Module, num_classes: int, shape: Shape) -> None:
    """Gives the backbone a new classifier in place, on the device and in the dtype of the old one.

    By timm's ``reset_classifier`` where there is one; otherwise the last linear layer or 1×1 convolution
    with as many outputs as there are logits is replaced.

    Raises:
        CutError: If the backbone does not run on images of this shape, or does not return one tensor.
        ValueError: If there is no such layer.
    """
    known = {*backbone.modules(), *backbone.parameters()}
    old: Any
    if callable(reset := getattr(backbone, "reset_classifier", None)):
        old = cast(Any, backbone).get_classifier()
        reset(num_classes)
    else:
        names, old = _classifier(backbone, shape)
        bias = old.bias is not None
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, num_classes, bias)
        else:
            new = nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
        for name in names:
            backbone.set_submodule(name, new)
    replaced = old if isinstance(old, nn.Module) else backbone  # timm's may be several, or none
    like = next(chain(replaced.parameters(), backbone.parameters()))
    for module in set(backbone.modules()) - known:
        module.training = backbone.training
    for parameter in set(backbone.parameters()) - known:
        parameter.data = parameter.data.to(like)


def _classifier(backbone: nn.Module, shape: Shape) -> tuple[list[str], nn.Linear | nn.Conv2d]:
    """The layer that makes the logits, and all names it has: the last one called with as many outputs."""
    try:
        logits = dry_run(backbone, shape)
    except Exception as error:  # the forward is the user's own code, and may fail in any way
        raise cannot_run(backbone, shape, error) from error
    if not isinstance(logits, Tensor):
        raise not_logits(backbone, logits)
    classes = logits.shape[-1]
    layers = {
        name: module
        for name, module in backbone.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == classes)
        or (isinstance(module, nn.Conv2d) and (module.out_channels, module.kernel_size) == (classes, (1, 1)))
    }
    called = list(input_shapes(backbone, layers, shape))
    if not called:
        raise ValueError(
            f"{type(backbone).__name__} has no linear layer or 1×1 convolution with {classes} outputs, one "
            "per logit, so num_classes= cannot replace it: replace the classifier before wrapping"
        )
    layer = layers[called[-1]]
    names = [name for name, module in backbone.named_modules(remove_duplicate=False) if module is layer]
    return names, layer
