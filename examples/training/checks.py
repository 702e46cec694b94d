"""Finds errors before training begins."""

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from torch import nn

from abn.saving import WEIGHTS
from training.checkpoints import LAST, PREVIOUS
from training.data import Data
from training.distributed import Processes
from training.edits import digest_of

# Options that may change when a run is resumed: they do not affect what is learned.
HARMLESS = {"recipe", "resume", "evaluate", "output", "root", "workers", "maps_every", "device"}


def check_options(options: Namespace, data: Data, processes: Processes) -> None:
    """Checks that the options fit the data and the processes.

    Raises:
        ValueError: If they do not fit.
        OSError: If the folder for the output cannot be made.
    """
    size, count = options.batch_size, processes.count
    if size % count:
        raise ValueError(
            f"--batch-size is {size}, which {count} processes cannot share: take a multiple of {count}"
        )
    if options.mixup and size // count % 2:
        raise ValueError(f"--mixup needs an even --batch-size per process, it is {size // count}")
    if options.auto_augment is not None and options.data == "digits":
        raise ValueError("--auto-augment is of no use for digits, which must not be turned or mirrored")
    if options.uncropped and data.preprocessing is not None:
        raise ValueError(f"--uncropped is for images of a folder, those of {options.data} have one size")
    if options.edited_maps is not None:
        others = {"--plain": options.plain, "--mixup": options.mixup, "--auto-augment": options.auto_augment}
        if used := [name for name, value in others.items() if value]:
            raise ValueError(f"--edited-maps does not go with {', '.join(used)}: leave one of them out")
    if options.evaluate is not None:
        return
    if size > len(data.train):
        raise ValueError(f"--batch-size is {size}, but there are only {len(data.train)} images to train on")
    if not options.resume and any((options.output / name).exists() for name in (LAST, PREVIOUS)):
        raise ValueError(
            f"{options.output} holds a run already: add --resume to go on with it, or take another --output"
        )
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output is {options.output}, a file, expected a folder")
    options.output.mkdir(parents=True, exist_ok=True)


def check_room(model: nn.Module, options: Namespace) -> None:
    """Checks that the disk has room for the checkpoints.

    Raises:
        ValueError: If it does not have enough.
    """
    weights = sum(value.nbytes for value in model.state_dict().values())
    state = weights * (3 if options.ema is None else 4)  # with what an optimizer such as AdamW keeps
    needed = 3 * state + 2 * weights  # last, previous and a new one; best and a new best
    there = [options.output / name for name in (LAST, PREVIOUS, f"best/{WEIGHTS}")]
    needed -= sum(file.stat().st_size for file in there if file.exists())
    free = shutil.disk_usage(options.output).free
    if free < needed:
        raise ValueError(
            f"{options.output} has {free / 2**20:.1f} MiB left, checkpoints may take {needed / 2**20:.1f}: "
            "make room, or take another --output"
        )


def comparable(options: Namespace, data: Data) -> dict[str, Any]:
    """Returns what must stay the same when a run is resumed."""
    kept = {name: value for name, value in vars(options).items() if name not in HARMLESS}
    if options.edited_maps is not None:
        kept["edited_maps"] = digest_of(options.edited_maps)
    return kept | {"classes": data.classes, "training images": len(data.train)}


def complete(options: dict[str, Any]) -> dict[str, Any]:
    """Adds the defaults of options that did not exist yet when the run began."""
    added = {"uncropped": False, "class_weights": None}
    added |= {"edited_maps": None, "map_loss": "energy", "map_weight": 3.0}
    return added | options


def check_same(before: dict[str, Any], now: dict[str, Any], source: Path) -> None:
    """Checks that the options of a run are the same now as when it was saved.

    Raises:
        ValueError: If they differ.
    """
    differences = [
        f"{name} {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            f"the run in {source} has other options: {'; '.join(differences)}. Take the same, or start anew "
            "from its weights: --weights .../best and another --output"
        )
