"""Builds the network of a configuration, and compares its weights with the weights in a file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from abn.checkpoint import CheckpointError, listed, misfits
from abn.models.registry import create_model
from abn.modules.maps import MAPS
from abn.network import ABN
from abn.preprocessing import Preprocessing
from abn.retrofit.backbones import WEIGHT_SOURCE_ARGUMENTS
from abn.retrofit.wrap import wrap_backbone
from abn.saving import UNSAVED, WEIGHTS

NOT_ARGUMENTS = ("preprocessing", "classes")
"""Entries of a configuration that are set on the network, and not passed to its builder."""

VERSION_0_1 = {"stage": "copy", "start": "new", "map": "class_activation", "mechanism": "residual"}
"""Defaults of version 0.1, for configurations that lack these entries. Later versions write them down."""

OF_A_PLAIN_NETWORK = (
    "If these are the weights of a network without attention branch, hand them to wrap_backbone('timm/...', "
    "backbone_weights='...'), or --backbone-weights on the command line"
)


def build_network(config: Mapping[str, Any], path: Path) -> ABN:
    """Builds the network of a configuration.

    Args:
        config: What :func:`abn.hub.configuration.read_network` returns.
        path: Where the configuration comes from, for error messages.

    Raises:
        ValueError: If no network can be built from the configuration.
    """
    arguments = {key: value for key, value in config.items() if key not in ("model", *NOT_ARGUMENTS)}
    name = config.get("model")
    if name is None or str(name).startswith("abn_"):  # other builders may not know these arguments
        arguments = {**VERSION_0_1, **arguments}
    try:
        known = config.get("preprocessing")
        preprocessing = None if known is None else Preprocessing.from_json(known)
        classes = config.get("classes")
        if classes is not None and not (
            isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        ):
            raise ValueError(f"classes are {classes!r}, expected a list of names")
        model = wrap_backbone(**arguments) if name is None else create_model(name, **arguments)
    except Exception as error:  # the library that builds the backbone may fail in any way
        raise ValueError(f"{path} does not build a network: {error}") from error
    if not isinstance(model, ABN):
        raise ValueError(f"{path} asks for {name}, expected a network with an attention branch")
    if preprocessing is not None:
        model.preprocessing = preprocessing  # else it stays as the backbone's library told it, if at all
    if classes is not None:
        model.classes = tuple(classes)
    return model


def checked_arguments(arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the arguments as a dict. Refuses arguments that tell where weights come from.

    Args:
        arguments: Arguments of the builder of a network.
        where: Where the arguments come from, for the error message.

    Raises:
        ValueError: If an argument tells where weights come from.
    """
    if refused := sorted((WEIGHT_SOURCE_ARGUMENTS | UNSAVED).intersection(arguments)):
        raise ValueError(f"{where} asks for {refused}, but all weights are in {WEIGHTS}: remove them")
    return dict(arguments)


def build_for_other_counts(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], counts: Mapping[str, int], path: Path
) -> tuple[ABN, list[str]]:
    """Builds a network with another number of classes or tasks than its weights are for.

    Args:
        config: Configuration of the network that the weights belong to.
        weights: Weights of that network.
        counts: The new ``num_classes``, ``tasks``, or both.
        path: Where the weights come from, for error messages.

    Returns:
        The new network, and the names of its weights that start anew because they depend on these numbers.

    Raises:
        CheckpointError: If the weights do not fit the configuration.
        ValueError: If no network can be built with these numbers.
    """
    check_fit(weights, build_network(config, path), path)
    changed = {**config, **counts}
    before, after = ((each.get("tasks") or 1, each.get("num_classes") or 1) for each in (config, changed))
    kind = MAPS.get(str(config.get("map")), MAPS["evidence"])
    # Networks of the official code have one response channel for each score.
    official = kind.of_evidence is None and kind.for_classes
    classifier = weights.get("attention_branch.classifier.weight")
    if classifier is not None and classifier.shape[0] == classifier.shape[1]:
        changed["response_channels"] = math.prod(after) if official else None
    model = measured = build_network(changed, path)
    if before != after and math.prod(before) == math.prod(after):
        # As many scores as before, but others, such as 6 tasks of 2 classes in place of 4 tasks of 3: the
        # weights of the scores keep their shapes. A network with one more task shows which weights they are.
        measured = build_network({**changed, "tasks": changed["tasks"] + 1}, path)
    anew = [key for key, value in measured.state_dict().items() if value.shape != weights[key].shape]
    if "attention_branch.map_conv.weight" in anew:
        # The norm behind a new convolution starts anew too: its factor may be negative, and invert the map.
        anew += [key for key in weights if key.startswith("attention_branch.map_norm.")]
    if anew and (config.get("tasks") is None or config["tasks"] != changed["tasks"]):
        model.classes = None  # they name the old classes or tasks
    return model, anew


def has_attention_branch(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("attention_branch.") for key in weights)


def check_fit(weights: Mapping[str, Tensor], model: ABN, path: Path) -> None:
    """Compares weights with the weights of a network, by name and shape.

    Raises:
        CheckpointError: If a weight is missing, left over or of another shape, or holds whole numbers in
            place of floating-point ones or the reverse. The error names the first five of each kind.
    """
    faults = misfits(weights, model.state_dict())
    lines = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if lines:
        lines += [OF_A_PLAIN_NETWORK] * (not has_attention_branch(weights))
        raise CheckpointError("\n".join([f"{path} does not hold the weights of {model.built_with}", *lines]))
