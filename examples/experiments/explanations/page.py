"""The page on the experiments, from their logs."""

import itertools
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from digits import TRAINING_DIGITS
from finetune_attention import Figures
from torch import Tensor

from abn import metrics
from experiments.common.tables import mean_and_worst, numbers, table
from experiments.common.training import BATCH
from experiments.explanations.candidates import CANDIDATES, Candidate
from experiments.explanations.runs import DELETED, OTHERS, STEP, directory_of, place, stored
from experiments.tasks.located_digits import BETRAYED, COLORED, GRAY, Task


@dataclass(frozen=True)
class Row:
    """One way to make maps, on one task: an entry per seed in each list."""

    title: str
    accuracy: list[float]
    worth: list[dict[str, float]]
    maps: list[Tensor]

    def values(self, figure: str) -> list[float]:
        return [worth[figure] for worth in self.worth]

    def stability(self) -> list[float]:
        """IoU of the thresholded maps of every two seeds."""
        return [metrics.iou(one, other).mean().item() for one, other in itertools.combinations(self.maps, 2)]


def rows(directory: Path, task: Task, candidate: Candidate | None, seeds: int) -> list[Row]:
    """A candidate's row; without one, those of the other methods, on the plain network."""
    runs = [stored(directory_of(directory, candidate, task, seed)) for seed in range(seeds)]
    accuracy = [figures["accuracy"] for figures, _ in runs]
    titles = {"ABN": candidate.title} if candidate else {name: f"{name}, plain network" for name in OTHERS}
    return [
        Row(title, accuracy, [figures["maps"][name] for figures, _ in runs], [maps[name] for _, maps in runs])
        for name, title in titles.items()
    ]


RESULTS_HEAD = [
    "map",
    "accuracy",
    "pointing",
    "energy in the box",
    "deletion",
    "insertion",
    "IoU of two seeds",
]


def results_rows(entries: Sequence[Row]) -> list[list[str]]:
    """Mean and worst seed of each way."""
    return [
        [
            row.title,
            mean_and_worst(row.accuracy),
            mean_and_worst(row.values("pointing")),
            mean_and_worst(row.values("energy")),
            mean_and_worst(row.values("deletion"), max),
            mean_and_worst(row.values("insertion")),
            mean_and_worst(row.stability()),
        ]
        for row in entries
    ]


def noise_row(task: Task) -> list[str]:
    """What maps of noise would score, as fine as the images."""
    scenes = task.test_scenes()
    size = scenes.images.shape[-2:]
    noise = torch.rand(len(scenes.labels), 1, *size, generator=torch.Generator().manual_seed(0))
    scores = place(scenes, noise)
    return ["random maps", "", *numbers([scores["pointing"], scores["energy"]]), "", "", ""]


def seeds_table(default: Row, others: Sequence[Row]) -> str:
    """The default beside the best of the other methods on the plain network of the same seed."""
    columns = {"accuracy, plain": others[0].accuracy, "accuracy, ABN": default.accuracy}
    for figure in ("pointing", "energy"):
        columns[f"{figure}, best CAM"] = list(map(max, *(row.values(figure) for row in others)))
        columns[f"{figure}, ABN"] = default.values(figure)
    seeds = zip(*columns.values(), strict=True)
    return table([["seed", *columns], *([seed, *numbers(values)] for seed, values in enumerate(seeds))])


def correction_table(results: Sequence[dict[str, Figures]]) -> str:
    """What edited maps gave back, of the accuracy that looking at the square cost."""

    def values(name: str, figure: str = "accuracy") -> list[float]:
        return [result[name][figure] for result in results]

    misled = statistics.mean(values("misled"))
    lost = statistics.mean(values("not misled")) - misled
    rows = [["network", "accuracy", "came back", "pointing", "energy in the box"]]
    for name in results[0]:
        accuracy, *place = (
            mean_and_worst(values(name, figure)) for figure in ("accuracy", "pointing", "energy")
        )
        back = f"{(statistics.mean(values(name)) - misled) / lost:.0%}"
        rows.append([name, accuracy, back, *place])
    return table(rows)


def page(
    directory: Path, seeds: int, epochs: int, results: Sequence[dict[str, Figures]], ratios: Sequence[float]
) -> str:
    """The page.

    Args:
        directory: Of the runs.
        seeds: How many there are of each.
        epochs: Of each.
        results: Of finetune_attention.py, one per seed.
        ratios: Time of a training step with the default map over that with the official code's.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "torchcam"))
    lines = [
        "# Where the map points",
        "",
        f"Written by `python examples/experiments explanations` from the logs of its runs: {versions}, "
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        f"ResNet-20 for CIFAR, {epochs} epochs, AdamW, batches of {BATCH}, bfloat16, {seeds} seeds; "
        f"{TRAINING_DIGITS} digits to train on, placed anew in each epoch, and 497 test images, 48 × 48, "
        "the same for all. Each cell: mean / worst seed.",
        "",
        "- **Pointing**: in which share of the images the map's highest point lies in the digit's box, "
        "without tolerance. **Energy in the box**: which share of the map does.",
        "- **Deletion** (low is good) and **insertion** (high is good): of the network that the map belongs "
        f"to, on {DELETED} images, {STEP} pixels at a time.",
        "- **IoU of two seeds**: of the regions above 100/255, for every two seeds.",
        "- **Grad-CAM**, **LayerCAM**: torch-cam's, of the plain network's predicted class, from its last "
        "stage. In this network, with its pool and one linear layer, CAM is the same map as Grad-CAM.",
        "",
        "All of these metrics are in `abn.metrics`.",
    ]
    for task, (title, description) in TASKS.items():
        others = rows(directory, task, None, seeds)
        candidates = [row for candidate in CANDIDATES for row in rows(directory, task, candidate, seeds)]
        lines += ["", f"## {title}", "", description, ""]
        lines += [table([RESULTS_HEAD, *results_rows([*others, *candidates]), noise_row(task)])]
        lines += ["", "The default, seed by seed:", ""]
        lines += [seeds_table(candidates[0], others)]
        lines += ["", f"![{PICTURE}](explanations_{task.name}.png)"]
    lines += ["", "## What became of each", ""]
    lines += [f"- **{candidate.title}**: {candidate.verdict}" for candidate in CANDIDATES]
    lines += ["", COST.format(count=len(ratios), median=statistics.median(ratios))]
    lines += ["", "## Correcting a network by its maps", "", CORRECTION, "", correction_table(results)]
    lines += ["", "## What the map shows, and what it does not", "", MEANING]
    return "\n".join(lines) + "\n"


TASKS = {
    GRAY: (
        "Digits among clutter",
        "A digit of 16 × 16 pixels among ten pieces of other digits (`examples/digits.py`).",
    ),
    COLORED: (
        "Colored digits beside a square that betrays some",
        "Digits of 16 and 24 pixels in any color among eight pieces of others, and a square of 8 × 8 pixels "
        f"(`examples/colored_digits.py`). In {BETRAYED:.0%} of the training images the square's color tells "
        "the class; elsewhere, and in all test images, it is drawn at random.",
    ),
}
PICTURE = (
    "Eight test images in columns with the digit's box, and over each the map of the ABN, Grad-CAM and "
    "LayerCAM"
)
COST = (
    "A training step with the default map took {median:.3f} times as long as one with the official code's "
    "(median of {count} pairs of steps in turn, one thread)."
)
CORRECTION = (
    "Networks whose training images betray the class by the square's color in nine of ten, and what became "
    "of them with `examples/finetune_attention.py`: the maps of a tenth of the digits edited, first of "
    "those that were misclassified. *Came back*: of the accuracy that was lost against networks that were "
    "never misled. Half of it comes back by the same training without maps. With any of the three losses on "
    "the map more does, in every seed, and most with the energy in the box."
)
MEANING = (
    "The map shows where the attention branch finds evidence for the classes that it sees, at the "
    "resolution of the features, and its maximum is 1 even where that evidence is weak. If the prediction "
    "is wrong, it shows the evidence for the wrong class. It does not show which pixels that evidence was "
    "computed from: each point of the features sees a large part of the image, and a network whose maps "
    "were forced onto the object can still answer by what lies beside it. And the perception branch, which "
    "gives the prediction, sees the other features too: the map amplifies, it does not hide."
)
