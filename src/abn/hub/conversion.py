"""Checkpoints that the trainers of the official code resume from."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abn.hub.configuration import BESIDE
from abn.hub.official import architecture, to_reference
from abn.saving import replacing

_logger = logging.getLogger("abn.hub")  # which is documented


def official_checkpoint(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> dict[str, Any]:
    """What the official trainer resumes from: DataParallel's names, and SGD before its first step."""
    try:
        official = to_reference(weights)
        model, arguments = architecture(official)
    except ValueError as error:
        raise ValueError(f"{path} holds no network that the official code has: {error}") from error
    same = {"model": model, "mechanism": "residual", "stage": "copy", "start": "new", **arguments}
    if "tasks" not in arguments:
        same["response_channels"] = arguments["num_classes"]
    # The shapes have told of the compression; the next two change no output.
    irrelevant = {"compression", "dropout", "input_size", *BESIDE}
    if "tasks" in arguments:
        irrelevant.add("mechanism")  # that code looks for it in another file
    given = {key: value for key, value in config.items() if key not in irrelevant and value is not None}
    others = {key: value for key, value in given.items() if value != same.get(key)}
    if "tasks" not in arguments and len(official["att_conv.weight"]) != same["response_channels"]:
        others["response_channels"] = len(official["att_conv.weight"])  # may be our default
    if others:
        raise ValueError(
            f"{path} holds no network that the official code has: it is built with {others}, expected {same}"
        )
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [torch.nn.Parameter(value) for key, value in official.items() if not key.endswith(buffers)]
    state_dict = {f"module.{key}": value for key, value in official.items()}
    # Resuming replaces the settings of the command line by those of the file: here those of the recipes.
    if "tasks" in arguments:
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
        return {
            "epoch": 0,
            "iteration": 0,
            "best_score": 0.0,
            "model_state_dict": state_dict,
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": {"last_epoch": 0},  # and no milestones in place of those asked for
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


def write_options(config: Mapping[str, Any], path: Path) -> None:
    """Writes the options with which the official multi-task trainer resumes: the published ones.

    That trainer takes all of them from this file, whatever its command line says. One that is there already
    may be its own, and stays.
    """
    residual = config.get("mechanism") != "multiplicative"
    version = 2 if config.get("map") == "scaled_response" else 1
    options = {
        "model": f"mtabn_v{version}_{str(config['model']).removeprefix('abn_')}",
        "residual_attention": residual,
        "pretrained": False,  # else it would fetch weights, to load these over them
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
