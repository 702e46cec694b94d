"""Builds the network to train: by name or from weights, with its attention branch or without."""

import functools
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint

import abn
from abn import ABN, ABNOutput, AttentionBranch, MultiTaskPerceptionBranch, PerceptionBranch
from abn.preprocessing import Preprocessing
from abn.saving import WEIGHTS, replacing
from training.checkpoints import read_state
from training.checks import check_same, complete
from training.data import Data
from training.options import DEFAULT_DEPTH, DEFAULT_MODEL


def create_network(options: Namespace, data: Data) -> ABN:
    """Builds the network for these data, with its preprocessing and the names of its classes.

    Raises:
        ValueError, OSError: If there is no such model, or it has no such argument.
    """
    classes = tuple(data.classes)
    preprocessing = data.preprocessing
    if options.image_size is not None:
        preprocessing = (preprocessing or Preprocessing()).at((options.image_size, options.image_size))
    size = None if preprocessing is None else preprocessing.size
    if options.evaluate is not None and not holds_weights_alone(options):
        model = _of_one_task(abn.hub.load(options.evaluate), options.evaluate)
        if (count := model.attention_branch.num_classes) != len(classes):
            raise ValueError(f"{options.evaluate} knows {count} classes, {options.data} has {len(classes)}")
        known = tuple(model.classes or ())
        if known != classes and set(known) & set(classes):
            raise ValueError(f"{options.evaluate} knows the classes {known}, {options.data} has {classes}")
    elif options.weights is not None:
        model = _of_one_task(_loaded(options, len(classes)), options.weights)
    else:
        arguments = dict(options.model_arguments)
        if options.backbone_weights is not None:
            arguments["backbone_weights"] = options.backbone_weights
        model = _of_one_task(_build(options.model, arguments, len(classes), size), options.model)
    if data.preprocessing is None:  # colours as the weights expect them
        preprocessing = model.preprocessing or Preprocessing()
        preprocessing = preprocessing if size is None else preprocessing.at(size)
        if options.uncropped:
            preprocessing = replace(preprocessing, resize=preprocessing.size, crop_mode="squash")
    model.preprocessing, model.classes = preprocessing, classes
    return model


def _loaded(options: Namespace, num_classes: int) -> ABN:
    arguments = dict(options.model_arguments)
    if options.model == DEFAULT_MODEL and arguments.get("depth") == DEFAULT_DEPTH:
        del arguments["depth"]  # it belongs to the default model, which these weights replace
    try:
        return abn.hub.load(options.weights, num_classes=num_classes, **arguments)
    except TypeError as error:  # an argument given twice, or of a wrong kind
        raise ValueError(
            f"{options.weights} is not loaded with the arguments {arguments}: {error}"
        ) from error


def _build(name: str, arguments: dict[str, Any], num_classes: int, size: tuple[int, int] | None) -> ABN:
    try:
        if "/" in name:
            shape = {} if size is None else {"input_size": (3, *size)}
            return abn.wrap_backbone(name, num_classes=num_classes, **shape, **arguments)
        model = abn.create_model(name, num_classes=num_classes, **arguments)
    except (TypeError, KeyError, AssertionError, RuntimeError) as error:  # from the libraries
        raise ValueError(f"{name} is not built with the arguments {arguments}: {error}") from error
    if not isinstance(model, ABN):
        raise ValueError(
            f"{name} has no attention branch, expected abn_{name}, with --plain to train without"
        )
    return model


def _of_one_task(model: ABN, name: object) -> ABN:
    if isinstance(model.perception_branch, MultiTaskPerceptionBranch):
        raise ValueError(
            f"{name} has {model.perception_branch.tasks} tasks, expected a network of one: docs/tasks.md "
            "tells how to train several in code of your own"
        )
    return model


def plain_network(model: ABN) -> nn.Sequential:
    """Returns the network without its attention branch: the baseline, with the same initial weights."""
    return nn.Sequential(model.feature_extractor, model.perception_branch.tail)


def logits_of(output: ABNOutput | Tensor) -> dict[str, Tensor]:
    """Returns the scores (B, K) by branch. The last ones are the prediction."""
    if isinstance(output, Tensor):
        return {"plain": output}
    return {"attention": output.attention_logits, "perception": output.perception_logits}


def checkpoint_activations(model: nn.Module) -> None:
    """Computes each block of the network again in the backward pass, instead of keeping its activations.

    Batch norms see each batch twice, so their running averages change faster.
    """
    for block in _blocks(model):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the blocks of the network: the modules below those that only hold other modules."""
    for module in model.children():
        if isinstance(module, (nn.Sequential, GraphModule, AttentionBranch, PerceptionBranch)):
            yield from _blocks(module)
        elif next(module.children(), None) is not None:
            yield module


def save_network(model: nn.Module, directory: Path) -> None:
    """Writes a network for ``abn.hub.load``. Of a plain network, only the weights are written."""
    if isinstance(model, ABN):
        model.save_pretrained(directory)
        return
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / WEIGHTS) as file:
        try:
            save_model(model, str(file))
        except SafetensorError as error:  # a full disk, for example
            raise OSError(f"{directory / WEIGHTS} could not be written: {error}") from error


def holds_weights_alone(options: Namespace) -> bool:
    """Whether the file to evaluate holds weights alone, so that the options must name the network."""
    return options.plain or Path(options.evaluate).suffix == ".pt"


def load_weights(model: nn.Module, options: Namespace, now: dict[str, Any]) -> None:
    """Loads a checkpoint of a run, or the best weights of a plain network, into the network.

    Raises:
        ValueError, OSError: If the file is missing, or belongs to another network.
    """
    source = Path(options.evaluate)
    try:
        if source.suffix == ".pt":
            state = read_state(source)
            names = ("model", "model_arguments", "weights", "plain", "image_size", "uncropped", "classes")
            before = complete(state["options"])
            check_same(*({name: each[name] for name in names} for each in (before, now)), source)
            model.load_state_dict(state["ema"] or state["model"])
        else:
            load_model(model, source / WEIGHTS if source.is_dir() else source)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]  # the error names all weights
        raise ValueError(f"{source} does not hold the weights of this network: {reason}") from error
