"""Writes the page on attention maps, from the logs of the runs."""

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
    """One way to make maps, on one task. Each list has an entry per seed."""

    title: str
    accuracy: list[float]
    worth: list[dict[str, float]]
    maps: list[Tensor]

    def values(self, figure: str) -> list[float]:
        return [worth[figure] for worth in self.worth]

    def stability(self) -> list[float]:
        """Computes the IoU of the thresholded maps of every two seeds."""
        return [metrics.iou(one, other).mean().item() for one, other in itertools.combinations(self.maps, 2)]


def rows(directory: Path, task: Task, candidate: Candidate | None, seeds: int) -> list[Row]:
    """Returns the row of a candidate, or without one the rows of other methods on the plain network."""
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
    """Returns mean and worst seed of each way, as rows of a table."""
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
    """Returns the row of maps of noise, which are as fine as the images."""
    scenes = task.test_scenes()
    size = scenes.images.shape[-2:]
    noise = torch.rand(len(scenes.labels), 1, *size, generator=torch.Generator().manual_seed(0))
    scores = place(scenes, noise)
    return ["random maps", "", *numbers([scores["pointing"], scores["energy"]]), "", "", ""]


def seeds_table(default: Row, others: Sequence[Row]) -> str:
    """Makes the table of the default beside the best of other methods on the plain network, seed by seed."""
    columns = {"accuracy, plain": others[0].accuracy, "accuracy, ABN": default.accuracy}
    for figure in ("pointing", "energy"):
        columns[f"{figure}, best CAM"] = list(map(max, *(row.values(figure) for row in others)))
        columns[f"{figure}, ABN"] = default.values(figure)
    seeds = zip(*columns.values(), strict=True)
    return table([["seed", *columns], *([seed, *numbers(values)] for seed, values in enumerate(seeds))])


def correction_table(results: Sequence[dict[str, Figures]]) -> str:
    """Makes the table of the accuracy that looking at the square cost, and that edited maps gave back."""

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
    """Returns the text of the page.

    Args:
        directory: Directory of the runs.
        seeds: Number of seeds of each network.
        epochs: Epochs of each run.
        results: Results of finetune_attention.py, one per seed.
        ratios: Time of a training step with the default map over the time with the official code's map.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm", "torchcam"))
    lines = [
        "# Where the map points",
        "",
        "Which kind of attention map points best at the object, in networks trained from scratch on two "
        "tasks where the place of the object is known.",
        f"Written by `python examples/experiments explanations` from the logs of its runs: {versions}, "
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        f"ResNet-20 for CIFAR, {epochs} epochs, AdamW, batches of {BATCH}, bfloat16, {seeds} seeds. There "
        f"are {TRAINING_DIGITS} digits to train on, placed anew in each epoch, and 497 test images of "
        "48 × 48 pixels, the same for all networks. Each cell: mean / worst seed.",
        "",
        "- **Pointing**: share of the images in which the map's highest point lies in the digit's box, "
        "without tolerance. **Energy in the box**: share of the map that lies in the box.",
        "- **Deletion** (low is good) and **insertion** (high is good): measured with the network that the "
        f"map belongs to, on {DELETED} images, {STEP} pixels at a time.",
        "- **IoU of two seeds**: intersection over union of the regions where the map is above 100/255, for "
        "every two seeds.",
        "- **Grad-CAM**, **LayerCAM**: torch-cam's, of the plain network's predicted class, from its last "
        "stage. This network ends in a pool and one linear layer, so CAM gives the same map as Grad-CAM.",
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
        "A digit of 16 or 24 pixels in any color among eight pieces of other digits, and a square of 8 × 8 "
        f"pixels (`examples/colored_digits.py`). In {BETRAYED:.0%} of the training images the square's color "
        "tells the class. In the other training images, and in all test images, it is drawn at random.",
    ),
}
PICTURE = (
    "Eight test images in columns with the digit's box, and over each the map of the ABN, Grad-CAM and "
    "LayerCAM"
)
COST = (
    "A training step with the default map took {median:.3f} times as long as one with the official code's "
    "map (median of {count} pairs of steps in turn, one thread)."
)
CORRECTION = (
    "Misled networks are trained on images in which the square's color tells the class in nine of ten. "
    "`examples/finetune_attention.py` trains them further, with edited maps for a tenth of the digits, "
    "misclassified digits first. *Came back*: share of the lost accuracy that comes back, where lost is the "
    "difference to networks that were never misled. Training further without maps brings half of it back. "
    "Each of the three losses on the map brings back more, in every seed. The loss on the energy in the box "
    "brings back most."
)
MEANING = (
    "The map shows where the attention branch finds evidence for the classes that it sees, at the "
    "resolution of the features. Its maximum is 1 even if the evidence is weak. If the prediction is wrong, "
    "the map shows the evidence for the wrong class. The map does not show which pixels the evidence was "
    "computed from: each point of the features sees a large part of the image. So a network whose maps were "
    "forced onto the object can still answer by what lies beside the object. The perception branch, which "
    "gives the prediction, also sees the features where the map is 0: the map amplifies, it does not hide."
)
