"""Makes the tables on pretrained networks before any training, from the figures of their runs."""

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.common.tables import numbers
from experiments.common.timing import ratios
from experiments.photos.before import DEFAULT

Results = dict[str, dict[str, Any]]
"""Figures by network."""


def prediction_rows(results: Results) -> list[list[str]]:
    rows = [["network", "images", "plain", "perception branch", "attention branch", "agreement"]]
    for name, figures in results.items():
        for images in ("photographs", "composites"):
            default = figures["variants"][DEFAULT][images]
            branches = [default[key] for key in ("perception", "attention", "agreement")]
            rows.append([name, images, *numbers([figures["plain"][images], *branches])])
    return rows


def map_rows(results: Results) -> list[list[str]]:
    rows = [["network", "map", "peak", "energy", "deletion", "insertion", "ms per image"]]
    for name, figures in results.items():
        for title, values in figures["maps"]["all"].items():
            measured = [values[key] for key in ("pointing", "energy", "deletion", "insertion")]
            rows.append([name, title, *numbers(measured), milliseconds(title, values["seconds"])])
    return rows


def few_rows(results: Results) -> list[list[str]]:
    rows = [["network", "map", "peak", "energy", "ms per image"]]
    for name, figures in results.items():
        for title, values in figures["maps"]["few"].items():
            measured = numbers([values["pointing"], values["energy"]])
            rows.append([name, title, *measured, milliseconds(title, values["seconds"])])
    return rows


def milliseconds(title: str, seconds: float) -> str:
    return "" if title == "random maps" else f"{1000 * seconds:.0f}"


def grid_rows(results: Results) -> list[list[str]]:
    rows = [["network", "map of the cell's class", "2 × 2: mean", "median", "3 × 3: mean", "median"]]
    for name, figures in results.items():
        grids = figures["grids"]
        for title in grids["2"]:
            shares = [grids[side][title][key] for side in ("2", "3") for key in ("mean", "median")]
            rows.append([name, title, *numbers(shares)])
    return rows


def change_rows(results: Results) -> list[list[str]]:
    rows = [["network", "", "photographs", "composites", "peak on the object", "energy on the object"]]
    for name, figures in results.items():
        plain = figures["plain"]
        rows.append([name, "plain", *numbers([plain["photographs"], plain["composites"]]), "", ""])
        for title, variant in figures["variants"].items():
            values = [variant[images]["perception"] for images in ("photographs", "composites")]
            values += [variant["place"][key] for key in ("pointing", "energy")]
            rows.append([name, title, *numbers(values)])
    return rows


def cost_rows(results: Results) -> list[list[str]]:
    rows = [["network", "", "parameters over plain", "time over plain, median and quartiles"]]
    for name, figures in results.items():
        seconds = figures["seconds"]
        for title, variant in (("version 0.1", "version 0.1"), ("default", DEFAULT)):
            parameters = figures["variants"][variant]["parameters"] / figures["parameters"]
            low, median, high = statistics.quantiles(ratios(seconds[title], seconds["plain"]), n=4)
            rows.append([name, title, f"{parameters:.2f}", f"{median:.2f} ({low:.2f} to {high:.2f})"])
    return rows


def fineness_rows(figures: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [["image", "split", "map", "time over plain", "top-1", "peak", "energy"]]
    for row in figures:
        height, width = row["map"]
        split = f"`{row['split']}`" if row["split"] else "plain network, Grad-CAM"
        measured = numbers([row[key] for key in ("accuracy", "pointing", "energy")])
        rows.append([str(row["size"]), split, f"{height} × {width}", f"{row['ratio']:.2f}", *measured])
    return rows
