"""Writes the page on photographs, from the figures of its runs."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.common.tables import table
from experiments.photos import before_tables, trained_tables
from experiments.photos.before import CONFIDENT, DELETED, GRIDS, PASTED_TIMES, SCORED, TIMED
from experiments.photos.fineness import ROUNDS as FINE_ROUNDS
from experiments.photos.fineness import TIMED as FINE_TIMED
from experiments.photos.runs import DELETED as DELETED_CELLS
from experiments.photos.runs import IMAGE_SIZE, STUDIES
from experiments.photos.trained_tables import Runs
from experiments.tasks.cutouts import KINDS, PLACES

TEMPLATE = Path(__file__).with_name("page.md")


def page(
    networks: before_tables.Results,
    runs: dict[str, Runs],
    counts: dict[str, tuple[int, int]],
    fineness: Sequence[dict[str, Any]],
) -> str:
    """Returns the text of the page.

    Args:
        networks: Figures of the pretrained networks before any training.
        runs: The runs of each study.
        counts: Numbers of images to train on and to test with, of each study.
        fineness: Figures of maps of several sizes.
    """
    packages = ("torch", "torchvision", "timm", "torchcam", "grad-cam")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    explained = {name: figures for name, figures in networks.items() if "maps" in figures}
    fields: dict[str, Any] = {
        "versions": f"{versions}, Python {platform.python_version()}, {platform.machine()}",
        "predictions": table(before_tables.prediction_rows(networks)),
        "maps": table(before_tables.map_rows(explained)),
        "few": table(before_tables.few_rows(explained)),
        "grids": table(before_tables.grid_rows(explained)),
        "grid_facts": "; ".join(
            f"{name}: {figures['grids']['photographs']} photographs" for name, figures in explained.items()
        ),
        "changes": table(before_tables.change_rows(networks)),
        "cost": table(before_tables.cost_rows(networks)),
        "confident": CONFIDENT,
        "deleted": DELETED,
        "scored": SCORED,
        "grid_counts": " and ".join(str(count) for count in GRIDS.values()),
        "times": PASTED_TIMES,
        "timed": TIMED,
        "threads": torch.get_num_threads(),
        "places": PLACES,
        "objects": counts["cutouts"][1] // PLACES,
        "size": IMAGE_SIZE,
        "deleted_cells": DELETED_CELLS,
        "kinds": len(KINDS),
        "kind_names": ", ".join(KINDS),
        "fine_timed": FINE_TIMED,
        "fine_rounds": FINE_ROUNDS,
        "fineness": table(before_tables.fineness_rows(fineness)),
    }
    for name, of_study in runs.items():
        recipe = STUDIES[name].recipe
        fields |= {
            f"{name}_epochs": recipe.epochs,
            f"{name}_batch": recipe.batch,
            f"{name}_rate": recipe.learning_rate,
            f"{name}_train": counts[name][0],
            f"{name}_test": counts[name][1],
            f"{name}_scores": table(trained_tables.score_rows(of_study)),
            f"{name}_by_seed": table(trained_tables.seed_rows(of_study, "accuracy")),
            f"{name}_maps": table(trained_tables.map_rows(of_study)),
            f"{name}_effect": table(trained_tables.effect_rows(of_study)),
        }
    return TEMPLATE.read_text(encoding="utf-8").format(**fields)
