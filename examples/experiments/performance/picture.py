"""Draws the picture of the page on what a map costs."""

import statistics
from pathlib import Path

from matplotlib.figure import Figure

from experiments.common.timing import ratios
from experiments.performance.contenders import BRANCHED, METHODS, TITLES
from experiments.performance.logs import Logs, best


def picture(directory: Path) -> Figure:
    """Draws the time of each contender in its best form, relative to the plain backbone's, batch by batch."""
    logs = Logs(directory)
    figure = Figure(figsize=(10, 2.4 * len(logs.networks)), layout="constrained")
    for axis, network in zip(
        figure.subplots(len(logs.networks), squeeze=False)[:, 0], logs.networks, strict=True
    ):
        batches = logs.batches(network)
        width = 0.8 / len(batches)
        for index, batch in enumerate(batches):
            times = logs.times(network, batch)
            rows = [row for row in (*BRANCHED, *METHODS) if row in times and row != "straightforward"]
            plain = times["plain"]["deployed"]
            values = [statistics.median(ratios(times[row][best(times[row])], plain)) for row in rows]
            places = [place + (index - (len(batches) - 1) / 2) * width for place in range(len(rows))]
            axis.bar(places, values, width, label=f"batch {batch}")
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(title=network.title, ylabel="time / plain backbone's")
        titles = (TITLES.get(row, row).partition(":")[0].replace("`", "") for row in rows)
        axis.set_xticks(range(len(rows)), [title.replace(" ", "\n", 1) for title in titles], fontsize=7)
        axis.legend(fontsize=7)
    return figure
