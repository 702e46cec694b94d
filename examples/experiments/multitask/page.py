"""Writes the page on networks of several tasks, and draws its picture, from the logs of the runs."""

import json
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from digits import TRAINING_DIGITS
from PIL import Image
from safetensors.torch import load_file

from abn.visualize import task_grid
from experiments.common.tables import mean_and_worst, numbers, table
from experiments.common.training import BATCH
from experiments.multitask.cost import BACKBONE, CHUNKS, PAIRS, SIZE
from experiments.multitask.cost import BATCH as COST_BATCH
from experiments.multitask.runs import (
    DEFAULT,
    FROM_ZERO,
    KINDS,
    PICTURED,
    PUBLISHED,
    Figures,
    file_of,
    maps_of,
)
from experiments.tasks.several_digits import CLASSES, NAMES, SeveralDigits

Runs = list[Figures]
"""The figures of one network, an entry per seed."""


PAGE = """\
# Several tasks, several maps: the figures

How well networks of several tasks answer, and where their maps point. How to build and train one:
[tasks.md](tasks.md).
Written by `python examples/experiments multitask` from the logs of its runs: {versions}.

ResNet-20 for CIFAR, {epochs} epochs, AdamW, batches of {batch}, bfloat16, {seeds} seeds. There are {training}
images to train on, drawn anew in each epoch, and {test} test images, the same for all networks. An image has
48 × 48 pixels, with one to four digits that do not overlap, among pieces of other digits
(`examples/experiments/tasks/several_digits.py`). The network has eleven tasks. Ten ask whether there is a 0,
..., a 9, and learn by cross-entropy. The last is the sum of all digits, and learns by the squared error. The
plain network has eleven outputs and no attention branch.

- **Accuracy**: share of right answers to the question whether the digit is there.
- **Pointing**: share of the images in which the highest point of the digit's map lies on the digit.
  **Energy**: share of the map that lies on the digit. Both are measured on the images that show the digit.
  For the sum, any digit counts. Of a map with both signs, the positive part counts.
- **Grad-CAM**: torch-cam's, of each output of the plain network, from its last stage.

## All tasks

Mean / worst of the seeds. *Least*: the worst of the ten digits in each seed.

{overview}

{verdicts}

## Task by task

Mean of the seeds; ABN: {default}.

{tasks}

## The maps

![{picture}](multitask.png)

{picture}.
If a digit is not there, class activation still shows the little evidence for it, scaled to a maximum of 1. So
look at the answer first, or at the map times the probability of the answer.

## What the passes cost

ABN on torchvision's {backbone}, {cost_batch} images of {size} × {size}, float32, {threads} threads on a CPU.
Training includes the gradients. *Folded*: the passes of all tasks run as one batch (the default). *Loop*:
they run one after another (`chunk=1`). *Five at a time*: `chunk=5`. Time: median of {pairs} pairs in turn,
and their range. Memory: what one pass adds to a new process.

{costs}

"""
PICTURE = (
    "Two test images and the maps of their eleven tasks: class activation, with the sum's bias from 0; below "
    "it the published kind, red where positive and blue where negative"
)


def page(directory: Path, seeds: int, epochs: int, costs: Sequence[dict[str, Any]]) -> str:
    """Returns the text of docs/multitask.md."""
    runs = {
        kind: [
            json.loads(file_of(directory, kind, seed).read_text(encoding="utf-8")) for seed in range(seeds)
        ]
        for kind in (None, *KINDS)
    }
    libraries = [f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "torchcam")]
    return PAGE.format(
        versions=", ".join([*libraries, f"Python {platform.python_version()}", platform.machine()]),
        epochs=epochs,
        batch=BATCH,
        seeds=seeds,
        training=TRAINING_DIGITS,
        test=len(SeveralDigits().test_scenes().labels),
        overview=overview(runs),
        verdicts="\n".join(f"- **{kind.title}**: {kind.verdict}" for kind in KINDS),
        default=DEFAULT.title,
        tasks=task_table(runs[None], runs[DEFAULT]),
        picture=PICTURE,
        backbone=BACKBONE,
        cost_batch=COST_BATCH,
        size=SIZE,
        threads=costs[0]["threads"],
        pairs=PAIRS,
        costs=cost_table(costs),
    )


def overview(runs: dict[Any, Runs]) -> str:
    """Makes the table with a row per network."""

    def digits(entries: Runs, figure: str, join: Callable[[Sequence[float]], float]) -> str:
        return mean_and_worst([join(entry[figure][:CLASSES]) for entry in entries])

    rows = [
        [
            *("network, map", "accuracy", "accuracy, least", "error of the sum"),
            *("pointing", "pointing, least", "energy", "energy, sum"),
        ]
    ]
    for kind, entries in runs.items():
        rows.append(
            [
                "plain, Grad-CAM" if kind is None else kind.title,
                digits(entries, "accuracy", statistics.mean),
                digits(entries, "accuracy", min),
                mean_and_worst([entry["error"] for entry in entries], max),
                digits(entries, "pointing", statistics.mean),
                digits(entries, "pointing", min),
                digits(entries, "energy", statistics.mean),
                mean_and_worst([entry["energy"][-1] for entry in entries]),
            ]
        )
    return table(rows)


def task_table(plain: Runs, default: Runs) -> str:
    """Makes the table with a row per digit."""

    def mean(entries: Runs, figure: str, task: int) -> float:
        return statistics.mean(entry[figure][task] for entry in entries)

    titles = {"accuracy": "accuracy, plain", "pointing": "pointing, Grad-CAM", "energy": "energy, Grad-CAM"}
    head = [title for figure, plain_title in titles.items() for title in (plain_title, f"{figure}, ABN")]
    rows = [
        [NAMES[task], *numbers(mean(runs, figure, task) for figure in titles for runs in (plain, default))]
        for task in range(CLASSES)
    ]
    return table([["task", *head], *rows])


def cost_table(costs: Sequence[dict[str, Any]]) -> str:
    """Makes the table with two rows per number of tasks: evaluation and training."""
    rows = [["tasks", "", "time, folded over loop", *(f"MiB, {title}" for title in CHUNKS)]]
    for cost in costs:
        ratios = cost["ratios"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append(
            [cost["tasks"], cost["phase"], spread, *(f"{cost['memory'][title]:.0f}" for title in CHUNKS)]
        )
    return table(rows)


def picture(directory: Path) -> Image.Image:
    """Draws the maps of two test images: of the first ones, those with the most digits."""
    scenes = SeveralDigits().test_scenes()
    most = scenes.labels[:PICTURED, :CLASSES].sum(dim=1).argsort(descending=True, stable=True)[:2].tolist()
    grids = []
    for index in most:
        for kind, sign in ((FROM_ZERO, None), (PUBLISHED, "both")):
            maps = load_file(maps_of(directory, kind, 0))["maps"].float()
            image = scenes.images[index]
            grids.append(
                task_grid(image, maps[index], NAMES, columns=1 + len(NAMES), panel_size=96, sign=sign)
            )
    canvas = Image.new("RGB", (grids[0].width, sum(grid.height for grid in grids)), "white")
    for row, grid in enumerate(grids):
        canvas.paste(grid, (0, row * grid.height))
    return canvas
