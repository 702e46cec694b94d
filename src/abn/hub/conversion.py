"""Rewrites files of weights from the official code's format to this library's, and back."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from abn.hub.building import NOT_ARGUMENTS, build_network, check_fit
from abn.hub.configuration import read_network
from abn.hub.official import architecture, to_reference
from abn.hub.sources import locate, published_entry
from abn.modules.maps import check_map
from abn.modules.mechanisms import check_mechanism
from abn.saving import replacing

_logger = logging.getLogger("abn.hub")  # its documented name


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    mechanism: str | None = None,
    map: str | None = None,
) -> None:
    """Rewrites a file of weights from the official code's format to this library's, or back.

    The command line has it as ``python -m abn convert SOURCE DESTINATION``. A conversion there and back
    changes no weight.

    Args:
        source: As for :func:`load`.
        destination: File to write. ``.safetensors`` holds the weights under the names of this library, and
            how to build the network. ``.pth.tar``, ``.pth`` or ``.pt`` is a checkpoint from which the
            official code resumes in epoch 0, in the format that PyTorch 0.4 could read. With several tasks,
            an ``args.json`` is written beside the checkpoint if there is none: the official trainer takes
            its options from that file when it resumes.
        mechanism: As for :func:`load`. A ``.safetensors`` file of this library tells the mechanism.
        map: As for :func:`load`. A ``.safetensors`` file of this library tells the kind of map.

    Raises:
        CheckpointError, DownloadError, TypeError: As in :func:`load`.
        FileNotFoundError: If there is no such source, or no directory for the destination.
        ValueError: If there is no such mechanism or map, if the destination has another ending, or if the
            official code lacks the network: it only has its own kinds of map, copied stages and, for one
            task, the residual mechanism.
    """
    destination = Path(destination).expanduser()
    if destination.suffix not in (".safetensors", ".tar", ".pth", ".pt") or destination.is_dir():
        raise ValueError(
            f"destination is {destination}, expected a file in .safetensors, .pth.tar, .pth or .pt"
        )
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {destination.parent} for {destination.name}: make it")
    if mechanism is not None:
        check_mechanism(mechanism)
    if map is not None:
        check_map(map)
    path = locate(source)
    entry = published_entry(source)
    if mechanism is None and entry is not None:
        mechanism = entry.mechanism
    config, weights = read_network(path, mechanism, map)
    if destination.suffix == ".safetensors":
        check_fit(weights, build_network(config, path), path)
        metadata = {"format": "pt", "config": json.dumps(config)}
        with replacing(destination) as file:
            save_file({key: value.contiguous().clone() for key, value in weights.items()}, file, metadata)
    else:
        checkpoint = _official_checkpoint(config, weights, path)
        with replacing(destination) as file:  # in the format that PyTorch 0.4 could read
            torch.save(checkpoint, file, _use_new_zipfile_serialization=False)
        if config.get("tasks"):
            _write_options(config, destination.with_name("args.json"))


def _official_checkpoint(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> dict[str, Any]:
    """Returns what the official trainer resumes from: names as of DataParallel, SGD before its first step."""
    try:
        official = to_reference(weights)
        model, arguments = architecture(official)
    except ValueError as error:
        raise ValueError(f"{path} holds no network that the official code has: {error}") from error
    expected = {"model": model, "mechanism": "residual", "stage": "copy", "start": "new", **arguments}
    if "tasks" not in arguments:
        expected["response_channels"] = arguments["num_classes"]
    # The shapes have already told the compression; dropout and input size change no output.
    irrelevant = {"compression", "dropout", "input_size", *NOT_ARGUMENTS}
    if "tasks" in arguments and config.get("mechanism") != "dimming":
        irrelevant.add("mechanism")  # either mechanism of the official code: it reads which from args.json
    relevant = {key: value for key, value in config.items() if key not in irrelevant and value is not None}
    different = {key: value for key, value in relevant.items() if value != expected.get(key)}
    if "tasks" not in arguments and len(official["att_conv.weight"]) != expected["response_channels"]:
        # The configuration may leave this number to this library's default.
        different["response_channels"] = len(official["att_conv.weight"])
    if different:
        raise ValueError(
            f"{path} holds no network that the official code has: it is built with {different}, expected "
            f"{expected}"
        )
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [torch.nn.Parameter(value) for key, value in official.items() if not key.endswith(buffers)]
    state_dict = {f"module.{key}": value for key, value in official.items()}
    # On resuming, the file's settings replace the command line's: write the settings of the recipes.
    if "tasks" in arguments:
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
        return {
            "epoch": 0,
            "iteration": 0,
            "best_score": 0.0,
            "model_state_dict": state_dict,
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": {"last_epoch": 0},  # no milestones: they would replace the trainer's
        }
    weight_decay = 5e-4 if model in ("abn_cifar_wide_resnet", "abn_cifar_resnext") else 1e-4
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=weight_decay)
    return {
        "epoch": 0,
        "state_dict": state_dict,
        "acc": 0.0,
        "best_acc": 0.0,
        "optimizer": optimizer.state_dict(),
    }


def _write_options(config: Mapping[str, Any], path: Path) -> None:
    """Writes the published options, with which the official multi-task trainer resumes.

    The trainer takes all its options from this file, whatever its command line says. A file that is there
    already may be the trainer's own: it stays, and a warning tells if its mechanism is another.
    """
    residual = config.get("mechanism") != "multiplicative"
    version = 2 if config.get("map") == "scaled_response" else 1
    options = {
        "model": f"mtabn_v{version}_{str(config['model']).removeprefix('abn_')}",
        "residual_attention": residual,
        "pretrained": False,  # else it would fetch weights, only to replace them
        **{"batch_size": 8, "epochs": 10, "lr": 0.01, "lr_steps": [4, 8], "momentum": 0.9, "wd": 1e-4},
        **{"use_nesterov": False, "seed": 1701},
    }
    if not path.exists():
        with replacing(path) as file:
            file.write_text(json.dumps(options, indent=4) + "\n", encoding="utf-8")
        return
    try:
        known = json.loads(path.read_bytes())["residual_attention"]
    except (ValueError, TypeError, KeyError):
        known = None
    if known is not residual:
        _logger.warning(
            "%s was there already, and says of the residual mechanism %s, expected %s", path, known, residual
        )
