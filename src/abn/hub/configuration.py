"""A stored network: what a file or directory tells of how to build it, and its weights."""

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights

from abn.checkpoint import CheckpointError, listed, misfits, read_checkpoint
from abn.hub.bounds import check_bounds
from abn.hub.official import architecture, from_reference, to_reference
from abn.hub.published import CELEBA_ATTRIBUTES
from abn.lock import PROCESS_LOCK
from abn.models.registry import create_model
from abn.modules.maps import MAPS
from abn.network import ABN
from abn.preprocessing import CELEBA, CIFAR, Preprocessing
from abn.retrofit.backbones import WEIGHT_SOURCE_ARGUMENTS
from abn.retrofit.wrap import wrap_backbone
from abn.saving import CONFIG, UNSAVED, WEIGHTS

BESIDE = ("preprocessing", "classes")
"""What a configuration tells beside the arguments that build the network."""


VERSION_0_1 = {"stage": "copy", "start": "new", "map": "class_activation", "mechanism": "residual"}
"""Defaults of version 0.1, for configurations that do not tell what later versions write down."""

_logger = logging.getLogger("abn.hub")  # which is documented


def contents(
    path: Path, mechanism: str | None = None, map: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads how to build the network, and its weights under our names.

    Where no configuration says the former, it is read off the names and shapes of the weights. The weights
    of a network of :mod:`abn.models` are compared with it before any memory is taken for it.

    Args:
        path: A file or a directory.
        mechanism: The attention mechanism, whatever the file tells of it.
        map: The kind of map, likewise.

    Raises:
        CheckpointError: If a file is no checkpoint, or not that of its network.
        FileNotFoundError: If a directory lacks one of its two files.
        ValueError: If the configuration is not one that this library writes.
    """
    config, weights = _directory(path) if path.is_dir() else _file(path, mechanism, map)
    if mechanism is not None:
        config["mechanism"] = mechanism
    if map is not None:
        if config.get("start") == "pretrained" and MAPS[map].of_evidence is None:
            raise ValueError(
                f"map is {map!r}, but the branch of {path} started from a backbone's classifier and has "
                "no layers for it: leave map= out"
            )
        config["map"] = map
    check_bounds(config, weights, path)
    if "model" in config:
        with PROCESS_LOCK, torch.device("meta"):
            check_fit(weights, built(config, path), path)
    return config, weights


def built(config: Mapping[str, Any], path: Path) -> ABN:
    """Builds the network of a configuration.

    Raises:
        ValueError: If the configuration, from this path, builds none.
    """
    arguments = {key: value for key, value in config.items() if key not in ("model", *BESIDE)}
    name = config.get("model")
    if name is None or str(name).startswith("abn_"):  # others may not know these arguments
        arguments = {**VERSION_0_1, **arguments}
    try:
        preprocessing = _preprocessing(config.get("preprocessing"))
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
        model.preprocessing = preprocessing  # else it may be known from timm
    if classes is not None:
        model.classes = tuple(classes)
    return model


def checked_arguments(arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments for a builder.

    Raises:
        ValueError: If one of them tells where weights come from.
    """
    if refused := sorted((WEIGHT_SOURCE_ARGUMENTS | UNSAVED).intersection(arguments)):
        raise ValueError(f"{where} asks for {refused}, but all weights are in {WEIGHTS}: remove them")
    return dict(arguments)


def rebuilt(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], counts: Mapping[str, int], path: Path
) -> tuple[ABN, list[str]]:
    """Builds the network with another number of classes or tasks.

    Args:
        config: Of the network that the weights are of.
        weights: Its weights.
        counts: ``num_classes``, ``tasks``, or both.
        path: Where the weights come from, for errors.

    Returns:
        The network, and the names of the weights as wide as what has changed, which the network has anew.

    Raises:
        CheckpointError: If the weights are not those of the configuration.
        ValueError: If there is no such network.
    """
    check_fit(weights, built(config, path), path)
    changed = {**config, **counts}
    before, after = ((each.get("tasks") or 1, each.get("num_classes") or 1) for each in (config, changed))
    kind = MAPS.get(str(config.get("map")), MAPS["evidence"])
    official = kind.of_evidence is None and kind.for_classes  # which has one response for each score
    classifier = weights.get("attention_branch.classifier.weight")
    if classifier is not None and classifier.shape[0] == classifier.shape[1]:
        changed["response_channels"] = math.prod(after) if official else None
    model = measured = built(changed, path)
    if before != after and math.prod(before) == math.prod(after):
        # As many scores, but others: yet another number tells which weights are as wide as they are many.
        measured = built({**changed, "tasks": changed["tasks"] + 1}, path)
    anew = [key for key, value in measured.state_dict().items() if value.shape != weights[key].shape]
    if "attention_branch.map_conv.weight" in anew:
        # The norm behind a new convolution starts anew too: its factor may be negative, and invert the map.
        anew += [key for key in weights if key.startswith("attention_branch.map_norm.")]
    if anew and (config.get("tasks") is None or config["tasks"] != changed["tasks"]):
        model.classes = None  # whose names they were
    return model, anew


def _preprocessing(values: dict[str, Any] | None) -> Preprocessing | None:
    if values is None:
        return None
    tuples: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }  # which JSON does not know
    return Preprocessing(**tuples)


_OF_A_PLAIN_NETWORK = (
    "If these are the weights of a network without attention branch, hand them to wrap_backbone('timm/...', "
    "backbone_weights='...'), or --backbone-weights on the command line"
)


def _is_ours(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("attention_branch.") for key in weights)


def check_fit(weights: Mapping[str, Tensor], model: ABN, path: Path) -> None:
    """Compares names and shapes of weights with those of a network.

    Raises:
        CheckpointError: If a weight is missing, left over, of another shape, or of whole numbers where others
            are expected. The first five of each kind are named.
    """
    faults = misfits(weights, model.state_dict())
    lines = [f"{fault}: {listed(names)}" for fault, names in faults.items() if names]
    if lines:
        lines += [_OF_A_PLAIN_NETWORK] * (not _is_ours(weights))
        raise CheckpointError("\n".join([f"{path} does not hold the weights of {model.built_with}", *lines]))


def _directory(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path} holds no {' and no '.join(missing)}, expected what save_pretrained() writes"
        )
    weights, _ = read_checkpoint(path / WEIGHTS)
    return _configuration((path / CONFIG).read_bytes(), path / CONFIG), weights


def _file(path: Path, mechanism: str | None, map: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    weights, metadata = read_checkpoint(path)
    if all(key.startswith("model.") for key in weights):  # as of a module of Lightning around the network
        weights = {key.removeprefix("model."): value for key, value in weights.items()}
    if "config" in metadata:
        return _configuration(metadata["config"], path), weights
    if "attention_branch.classifier.bias" in weights:
        raise CheckpointError(
            f"{path} holds weights of several tasks, but not how many: load them with load_state_dict() into "
            "the network they are of, and save that with save_pretrained()"
        )
    if any(key.startswith("attention_branch.classifier.layers.") for key in weights):
        raise CheckpointError(
            f"{path} holds weights of a network that started from a backbone's classifier, but not which "
            "backbone: load them with load_state_dict() into such a network, and save that with "
            "save_pretrained()"
        )
    try:
        ours = _is_ours(weights)
        plain = _without_shifts(weights)
        official = to_reference(plain) if ours else weights
        model, arguments = architecture(official)
        dense = plain.keys() != weights.keys()
        if dense:
            arguments["stage"] = "dense"
        told = {f"attention_branch.{kind.layer}" for kind in MAPS.values() if kind.layer}.intersection(
            weights
        )
        if ours and not told and "tasks" not in arguments and map is None:
            if arguments["map"] == "convolution":
                arguments["map"] = VERSION_0_1["map"]
            _logger.warning(
                "%s does not tell its kind of map: taken for %s; give map= if it is another, and save "
                "networks with save_pretrained(), which writes it down",
                path,
                arguments["map"],
            )
        if not dense:
            weights = from_reference(official)
    except ValueError as error:
        raise CheckpointError(
            f"{path} holds the weights of no known network: {error}\n{_OF_A_PLAIN_NETWORK}"
        ) from error
    if "mechanism" in arguments and mechanism is None:
        arguments["mechanism"] = _multitask_mechanism(path)
    return {"model": model, **arguments, **_published_data(model, **arguments)}, weights


def _without_shifts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a dense stage under the names that those of a copied stage have."""
    return {re.sub(r"^(attention_branch\.stage\..*)\.layer\.", r"\1.", key): weights[key] for key in weights}


def _multitask_mechanism(path: Path) -> str:
    """As the official multi-task trainer wrote it down beside its checkpoint, or else the published one."""
    options = path.with_name("args.json")
    try:
        residual = json.loads(options.read_bytes())["residual_attention"]
    except (OSError, ValueError, TypeError, KeyError):
        _logger.warning(
            "%s does not tell its attention mechanism, nor does an %s beside it: taken for multiplicative, "
            "as in the published weights; give mechanism= if it was trained with --residual_attention",
            path,
            options.name,
        )
        residual = False
    return "residual" if residual else "multiplicative"


def _published_data(
    model: str, num_classes: int | None, in_channels: int = 3, tasks: int | None = None, **_: Any
) -> dict[str, Any]:
    """What the official code was published for: CIFAR, ImageNet and, with several tasks, CelebA."""
    if tasks is not None:
        names = {"classes": list(CELEBA_ATTRIBUTES)} if tasks == len(CELEBA_ATTRIBUTES) else {}
        return {"preprocessing": asdict(CELEBA), **names}
    data: dict[str, Any] = {}
    if in_channels == 3:
        data["preprocessing"] = asdict(CIFAR if "cifar" in model else Preprocessing())
    if "cifar" not in model and num_classes == 1000:
        data["classes"] = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return data


def _configuration(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict) or not ("model" in config or isinstance(config.get("backbone"), str)):
        raise ValueError(
            f"{path} names neither a model nor a backbone, expected what save_pretrained() writes: "
            '{"model": "abn_resnet50", ...} or {"backbone": "timm/...", ...}'
        )
    config = checked_arguments(config, str(path))
    if isinstance(config.get("input_size"), list):
        config["input_size"] = tuple(config["input_size"])  # JSON knows no tuples
    return config
