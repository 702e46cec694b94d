"""Reads options from the command line, and from recipes: files of options."""

import argparse
import difflib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml
from timm.optim import list_optimizers

from abn.losses import Guidance

# Without optimizers that need a second gradient, random numbers of their own, or further libraries.
OPTIMIZERS = list_optimizers(exclude_filters=["adahessian", "kron*", "fused*", "bnb*"])
DEFAULT_MODEL = "abn_cifar_resnet"
DEFAULT_DEPTH = 20


def read_options(words: list[str]) -> argparse.Namespace:
    """Reads the command line. Options of a recipe come first, so other options override them."""
    parser = _parser()
    recipe = parser.parse_known_args(words)[0].recipe
    options = parser.parse_args(([] if recipe is None else _words(parser, recipe)) + words)
    options.model_arguments = dict(options.model_arguments)
    if options.model == DEFAULT_MODEL:
        options.model_arguments.setdefault("depth", DEFAULT_DEPTH)
    options.data = options.data.rstrip("/") or "/"
    options.milestones.sort()
    if options.milestones and options.schedule != "step":
        parser.error(f"--milestones belong to --schedule step, it is {options.schedule}")
    if options.warmup_epochs is None:
        options.warmup_epochs = min(1, options.epochs - 1)
    if options.warmup_epochs >= options.epochs:
        parser.error(f"{options.warmup_epochs} of {options.epochs} epochs are warm-up, expected fewer")
    return options


def _words(parser: argparse.ArgumentParser, recipe: Path) -> list[str]:
    """Turns a recipe into words of the command line: ``batch-size: 128`` into ``--batch-size 128``."""
    try:
        lines = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        parser.error(f"the recipe {recipe} cannot be read: {error}")
    if not isinstance(lines, dict):
        parser.error(f"the recipe {recipe} holds no lines like 'epochs: 300'")
    known = {action.option_strings[-1].removeprefix("--") for action in parser._actions} - {"help", "recipe"}
    words = []
    for name, value in lines.items():
        if name not in known:
            similar = ", ".join(difflib.get_close_matches(str(name), known)) or "see --help"
            parser.error(f"the recipe {recipe} sets {name!r}, which is no option; similar: {similar}")
        if value is False or value is None or value == []:
            continue
        words.append(f"--{name}")
        if isinstance(value, dict):
            words += [f"{key}={json.dumps(item, default=str)}" for key, item in value.items()]
        elif value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


def keyword(text: str) -> tuple[str, Any]:
    """Turns ``depth=110`` into ``("depth", 110)``. A value that is not JSON stays a string."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r}, expected NAME=VALUE, such as depth=110")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def number(kind: type, low: float, high: float = math.inf) -> Callable[[str], Any]:
    """Returns a type for argparse: a number from ``low`` to ``high``."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value):
            limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"{text!r}, expected a {whole}number {limits}")
        return value

    return parse


count = number(int, 1)
positive = number(float, 1e-12)
share = number(float, 0, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Trains an image classifier with an attention branch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )

    what = parser.add_argument_group("what is trained")
    add = what.add_argument
    add("--recipe", type=Path, metavar="FILE", help="options from a file, see examples/recipes")
    add("--data", default="digits", help="digits, cifar10, cifar100, or a folder with train/ and val/")
    add("--root", type=Path, default=Path("data"), help="where CIFAR is downloaded to")
    add("--image-size", type=count, metavar="PIXELS", help="default: what the data or the model asks for")
    add(
        "--uncropped",
        action="store_true",
        help="resizes each image to the image size, whatever its proportions, and mirrors it in training; "
        "without it, images of a folder are cropped: in training at random, to 8 %% to 100 %% of their area, "
        "in validation to the centre that the model asks for, often 87.5 %% of the shorter side",
    )
    add("--model", default=DEFAULT_MODEL, help="abn.list_models('abn_*'), timm/..., torchvision/...")
    add(
        "--model-arguments",
        nargs="+",
        action="extend",
        type=keyword,
        default=[],
        metavar="NAME=VALUE",
        help="for its builder, added to those of a recipe; or what --weights do not tell, such as dropout",
    )
    add(
        "--backbone-weights",
        metavar="FILE",
        help="weights of a timm/... or torchvision/... model, where they are not those of the library",
    )
    add("--weights", metavar="SOURCE", help="fine-tunes these, in place of --model: what abn.hub.load takes")
    add("--edited-maps", type=Path, metavar="FOLDER", help="maps that were edited for some training images")
    add("--plain", action="store_true", help="leaves the attention branch out: the baseline")

    how = parser.add_argument_group("how")
    add = how.add_argument
    add("--epochs", type=count, default=15)
    add("--batch-size", type=count, default=64, help="of all processes together")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", metavar="NAME",
        help="one of timm's: momentum (SGD), sgd (with Nesterov's momentum), adamw, ...")  # fmt: skip
    add("--learning-rate", type=positive, default=3e-3)
    add("--momentum", type=share, default=0.9)
    add("--weight-decay", type=number(float, 0), default=1e-2, help="on all weights, as in the official code")
    add("--schedule", choices=("step", "cosine"), default="cosine", help="of the learning rate")
    add("--milestones", nargs="+", type=count, default=[], metavar="EPOCH", help="of the step schedule")
    add("--gamma", type=positive, default=0.1, help="factor at each milestone")
    add("--warmup-epochs", type=number(int, 0), help="(default: 1, if there are more epochs)")
    add("--label-smoothing", type=share, default=0.0)
    add(
        "--class-weights",
        choices=("balanced",),
        help="of the training loss: rare classes count more, so that all count alike in sum",
    )
    add("--map-loss", choices=get_args(Guidance), default="energy", help="of --edited-maps")
    add(
        "--map-weight",
        type=positive,
        default=3.0,
        help="of --map-loss: the mean over the edited maps of a process's images",
    )
    add("--mixup", type=number(float, 0), default=0.0, metavar="ALPHA", help="0 for none")
    add("--auto-augment", metavar="POLICY", help="one of timm's, such as rand-m9-mstd0.5")
    add("--clip-gradient", type=positive, metavar="NORM", help="largest norm of the gradient")
    add("--ema", type=share, metavar="DECAY", help="evaluates and keeps a moving average of the weights")
    add("--seed", type=number(int, 0), default=0)

    where = parser.add_argument_group("on what")
    add = where.add_argument
    add("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    add(
        "--workers",
        type=number(int, 0),
        default=2,
        help="processes that load images, for each process that trains",
    )
    add("--amp", choices=("bfloat16", "float16"), help="mixed precision")
    add("--channels-last", action="store_true", help="memory layout, faster on most devices")
    add("--compile", action="store_true", help="with torch.compile")
    add("--activation-checkpointing", action="store_true", help="keeps the inputs of blocks alone")
    add("--sync-batchnorm", action="store_true", help="batch norms over all processes (GPUs only)")

    files = parser.add_argument_group("files")
    add = files.add_argument
    add("--output", type=Path, default=Path("run"), help="folder for checkpoints, logs and images")
    add("--resume", action="store_true", help="goes on where the run in --output stopped, if there is one")
    add("--evaluate", metavar="CHECKPOINT", help="only evaluates: a file or folder of a run, or as --weights")
    add("--maps-every", type=count, default=5, metavar="EPOCHS", help="images of attention maps")
    return parser
