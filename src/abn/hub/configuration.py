"""Reads how a saved network is built, and its weights, from a file or a directory."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights

from abn.checkpoint import CheckpointError, read_weights
from abn.hub.bounds import check_bounds
from abn.hub.building import (
    OF_A_PLAIN_NETWORK,
    VERSION_0_1,
    build_network,
    check_fit,
    checked_arguments,
    has_attention_branch,
)
from abn.hub.official import architecture, from_reference, to_reference
from abn.hub.published import CELEBA_ATTRIBUTES
from abn.lock import PROCESS_LOCK
from abn.modules.maps import MAPS
from abn.preprocessing import CELEBA, CIFAR, Preprocessing
from abn.saving import CONFIG, WEIGHTS

_logger = logging.getLogger("abn.hub")  # its documented name


def read_network(
    path: Path, mechanism: str | None = None, map: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the configuration of a network, and its weights under the names of this library.

    A configuration that was not saved is derived from the names and shapes of the weights. If the
    configuration names a ``"model"``, the weights are checked against it before memory is taken for the
    network.

    Args:
        path: A file of weights, or a directory that ``save_pretrained()`` wrote.
        mechanism: The attention mechanism, in place of the one in the file.
        map: The kind of map, in place of the one in the file.

    Returns:
        The configuration, and the weights by name. The configuration holds the arguments of
        :func:`abn.wrap_backbone`, or of the builder named under ``"model"``.

    Raises:
        CheckpointError: If a file is no checkpoint, or its weights do not fit its network.
        FileNotFoundError: If a directory lacks ``config.json`` or ``model.safetensors``.
        ValueError: If this library writes no such configurations, or the network has no layers for ``map``.
    """
    config, weights = _read_directory(path) if path.is_dir() else _read_file(path, mechanism, map)
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
            check_fit(weights, build_network(config, path), path)
    return config, weights


def _read_directory(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path} holds no {' and no '.join(missing)}, expected what save_pretrained() writes"
        )
    weights, _ = read_weights(path / WEIGHTS)
    return _parse_configuration((path / CONFIG).read_bytes(), path / CONFIG), weights


def _read_file(
    path: Path, mechanism: str | None, map: str | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    weights, metadata = read_weights(path)
    if all(key.startswith("model.") for key in weights):  # saved by a Lightning module around the network
        weights = {key.removeprefix("model."): value for key, value in weights.items()}
    if "config" in metadata:
        return _parse_configuration(metadata["config"], path), weights
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
        has_branch = has_attention_branch(weights)
        plain = _without_shifts(weights)
        official = to_reference(plain) if has_branch else weights
        model, arguments = architecture(official)
        dense = plain.keys() != weights.keys()
        if dense:
            arguments["stage"] = "dense"
        map_layers = {f"attention_branch.{kind.layer}" for kind in MAPS.values() if kind.layer}.intersection(
            weights
        )
        if has_branch and not map_layers and "tasks" not in arguments and map is None:
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
            f"{path} holds the weights of no known network: {error}\n{OF_A_PLAIN_NETWORK}"
        ) from error
    if "mechanism" in arguments and mechanism is None:
        arguments["mechanism"] = _multitask_mechanism(path)
    return {"model": model, **arguments, **_published_data(model, **arguments)}, weights


def _without_shifts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights with a dense stage renamed as if it were a copied stage."""
    return {re.sub(r"^(attention_branch\.stage\..*)\.layer\.", r"\1.", key): weights[key] for key in weights}


def _multitask_mechanism(path: Path) -> str:
    """Reads the mechanism from the official ``args.json`` beside the file, or takes the published one."""
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
    """Returns preprocessing and names for the official code's data: CIFAR, ImageNet, CelebA with tasks."""
    if tasks is not None:
        names = {"classes": list(CELEBA_ATTRIBUTES)} if tasks == len(CELEBA_ATTRIBUTES) else {}
        return {"preprocessing": asdict(CELEBA), **names}
    data: dict[str, Any] = {}
    if in_channels == 3:
        data["preprocessing"] = asdict(CIFAR if "cifar" in model else Preprocessing())
    if "cifar" not in model and num_classes == 1000:
        data["classes"] = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return data


def _parse_configuration(text: str | bytes, path: Path) -> dict[str, Any]:
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
