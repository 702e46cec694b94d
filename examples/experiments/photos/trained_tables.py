"""Makes the tables on networks trained on photographs, from the figures of their runs."""

import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from experiments.common.tables import mean_and_worst, numbers
from experiments.photos.runs import PLAIN, Variant

Run = tuple[dict[str, Any], dict[str, Tensor]]
"""Figures of a run, and its scores and maps."""
Runs = dict[Variant, list[Run]]
"""The runs of each variant, one for each seed."""


def of(runs: Sequence[Run], *keys: str) -> list[float]:
    """Returns a figure of each run."""
    values = []
    for figures, _ in runs:
        value: Any = figures
        for key in keys:
            value = value[key]
        values.append(value)
    return values


def score_rows(runs: Runs) -> list[list[str]]:
    """Returns rows of accuracy and area under the ROC curve, as mean / worst seed, and of training time."""
    two_classes = "auc" in runs[PLAIN][0][0]
    columns = ["accuracy", "AUC"] if two_classes else ["accuracy"]
    rows = [["network", "seeds", *columns, "attention branch's accuracy", "seconds per epoch"]]
    for variant, of_seeds in runs.items():
        keys = ["accuracy", "auc"] if two_classes else ["accuracy"]
        branch = "" if variant.arguments is None else mean_and_worst(of(of_seeds, "attention"))
        rows.append(
            [
                variant.title,
                str(len(of_seeds)),
                *(mean_and_worst(of(of_seeds, key)) for key in keys),
                branch,
                f"{statistics.median(of(of_seeds, 'seconds_per_epoch')):.0f}",
            ]
        )
    return rows


def seed_rows(runs: Runs, key: str) -> list[list[str]]:
    """Returns rows of a figure, seed by seed. Some networks were trained with fewer seeds."""
    count = len(runs[PLAIN])
    rows = [["network", *(f"seed {seed}" for seed in range(count))]]
    for variant, of_seeds in runs.items():
        values = numbers(of(of_seeds, key))
        rows.append([variant.title, *values, *[""] * (count - len(values))])
    return rows


COLUMNS = {
    "pointing": ("peak", min),
    "energy": ("energy", min),
    "grid": ("grid pointing game", min),
    "deletion": ("deletion", max),
    "insertion": ("insertion", min),
}


def map_rows(runs: Runs) -> list[list[str]]:
    """Returns rows of what the maps are worth: mean / worst seed."""
    measured = runs[PLAIN][0][0]["maps"]["Grad-CAM"]
    keys = [key for key in COLUMNS if key in measured]
    rows = [["network", "map", *(COLUMNS[key][0] for key in keys)]]
    for variant, of_seeds in runs.items():
        for name, figures in of_seeds[0][0]["maps"].items():
            cells = [
                mean_and_worst(of(of_seeds, "maps", name, key), COLUMNS[key][1]) if key in figures else ""
                for key in keys
            ]
            rows.append([variant.title, name, *cells])
    return rows


def effect_rows(runs: Runs) -> list[list[str]]:
    """Returns rows of the prediction with another map, in the mean over the seeds."""
    replacements = {"ones": "ones", "mean": "its mean", "another": "another image's map"}
    head = [f"accuracy with {name}, change" for name in replacements.values()]
    rows = [["network", "accuracy", *head]]
    for variant, of_seeds in runs.items():
        if variant.arguments is None:
            continue
        cells = []
        for replacement in replacements:
            accuracy, change = (
                statistics.mean(of(of_seeds, "effect", replacement, key))
                for key in ("correct_replaced", "change")
            )
            cells.append(f"{accuracy:.3f}, {change:.3f}")
        rows.append([variant.title, f"{statistics.mean(of(of_seeds, 'accuracy')):.3f}", *cells])
    return rows
