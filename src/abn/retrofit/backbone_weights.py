"""Loads a backbone's weights from a local file, and looks up its preprocessing and class names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

from abn.checkpoint import CheckpointError, listed, misfits, read_weights
from abn.preprocessing import Preprocessing, preprocessing_of
from abn.retrofit.backbones import WEIGHT_SOURCE_ARGUMENTS, asks_for_weights
from abn.retrofit.dry_run import Shape
from abn.retrofit.last_layer import replace_classifier


def check_backbone_weights(file: object, arguments: Mapping[str, object]) -> None:
    """Checks the argument ``backbone_weights`` of :func:`abn.wrap_backbone`.

    Raises:
        FileNotFoundError: If there is no file at this path.
        TypeError: If ``file`` is not a path.
        ValueError: If ``arguments`` make the backbone's library load weights as well.
    """
    if not isinstance(file, (str, Path)) or not str(file):
        raise TypeError(f"backbone_weights is {file!r}, expected the path of a file")
    if asks_for_weights(arguments):
        asked = ", ".join(sorted(WEIGHT_SOURCE_ARGUMENTS.intersection(arguments)))
        raise ValueError(
            f"backbone_weights is {str(file)!r}, but {asked} ask for others: leave one of them out"
        )
    if not Path(file).expanduser().exists():
        raise FileNotFoundError(f"there is no file {file}, expected the weights of the backbone")


def load_backbone_weights(backbone: nn.Module, path: Path, shape: Shape) -> int | None:
    """Loads a state dict from a file into a backbone, in place.

    If the file is a trainer's checkpoint, its state dict is used. The prefixes ``module.``, ``_orig_mod.``
    and ``model.`` are taken off the names. If the file is for another number of classes than the backbone,
    the backbone's classifier is replaced by one for the number of classes in the file.

    Args:
        backbone: A network of the architecture that the weights are for.
        path: A file written by ``torch.save`` or safetensors. It is not unpickled.
        shape: (C, H, W) of the backbone's images.

    Returns:
        The number of classes that the file is for, if the backbone had another number; otherwise None.

    Raises:
        CheckpointError: If the file holds no weights, or weights that do not fit the backbone. The message
            says which weights do not fit.
    """
    weights, _ = read_weights(path.expanduser())
    expected = backbone.state_dict()
    while not expected.keys() & weights.keys() and (prefix := _common_prefix(weights)):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):  # files of PyTorch 0.4 lack this counter
            weights.setdefault(key, torch.zeros_like(value))
    if (count := _other_number_of_classes(weights, expected)) is not None:
        replace_classifier(backbone, count, shape)
        expected = backbone.state_dict()
    faults = [f"{fault}: {listed(names)}" for fault, names in misfits(weights, expected).items() if names]
    if faults:
        raise CheckpointError(
            "\n".join([f"{path} does not hold the weights of this {type(backbone).__name__}", *faults])
        )
    backbone.load_state_dict(weights)
    return count


def _common_prefix(weights: Mapping[str, Tensor]) -> str | None:
    """Returns the prefix of a wrapper that all names begin with, or None."""
    wrappers = ("module.", "model.", "_orig_mod.")
    return next((prefix for prefix in wrappers if all(key.startswith(prefix) for key in weights)), None)


def _other_number_of_classes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int | None:
    """Returns the number of classes that the weights are for, if nothing else keeps them from fitting.

    Returns None if all weights fit, or if anything but the number of classes differs.
    """
    shapes = [
        (tuple(weights[key].shape), tuple(value.shape))
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    counts = {theirs[0] for theirs, ours in shapes if theirs[1:] == ours[1:]}
    complete = weights.keys() == expected.keys() and all(theirs[1:] == ours[1:] for theirs, ours in shapes)
    return counts.pop() if complete and len(counts) == 1 else None


def known_data(
    backbone: nn.Module,
    name: str | None,
    arguments: Mapping[str, object],
    weights_file: str | Path | None,
    shape: Shape,
) -> tuple[Preprocessing | None, Sequence[str] | None]:
    """Looks up how images are prepared for the backbone, and the names of its classes.

    Args:
        backbone: The backbone, with its weights.
        name: Name that the backbone was built by, or None.
        arguments: Arguments that the backbone was built with.
        weights_file: File that its weights were read from, or None.
        shape: (C, H, W) of the backbone's images.

    Returns:
        The preprocessing, for images of this height and width, and the names. Each is None if the backbone's
        library does not tell it. There is no preprocessing for images without three channels.
    """
    library, _, model = (name or "").partition("/")
    preprocessing, classes = preprocessing_of(backbone), None
    if library == "torchvision":
        if (weights := _torchvision_weights(model, arguments.get("weights"), weights_file)) is not None:
            classes = weights.meta.get("categories")
            transforms = weights.transforms()
            if isinstance(transforms, ImageClassification):
                preprocessing = _preprocessing_of_torchvision(transforms)
    elif library == "timm" and arguments.get("pretrained") and weights_file is None:
        known = getattr(backbone, "pretrained_cfg", {}) or {}
        if known.get("num_classes") == getattr(backbone, "num_classes", None) == 1000:
            classes = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    if preprocessing is not None:
        preprocessing = preprocessing.at(shape[1:]) if shape[0] == 3 else None
    return preprocessing, classes


def _torchvision_weights(model: str, asked: object, file: str | Path | None) -> WeightsEnum | None:
    """Returns the entry of torchvision's table of weights that has this file name, or that ``asked`` names.

    Returns None if torchvision lists no file of this name, or if no weights were asked for.
    """
    known = torchvision.models.get_model_weights(model)
    if file is not None:
        return next((entry for entry in known if Path(entry.url).name == Path(file).name), None)
    if isinstance(asked, str):
        entry: WeightsEnum = known[asked.rpartition(".")[2]]
        return entry
    return asked if isinstance(asked, WeightsEnum) else None


def _preprocessing_of_torchvision(transforms: ImageClassification) -> Preprocessing:
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    interpolation = transforms.interpolation.value
    return Preprocessing((crop, crop), resize, tuple(transforms.mean), tuple(transforms.std), interpolation)
