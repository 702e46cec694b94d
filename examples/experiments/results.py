"""Trains a network with and without its attention branch, and writes docs/results.md.

    python examples/experiments results

ResNet-20 learns handwritten digits among clutter (examples/digits.py), with five seeds for each of the two
networks and equal budgets. Half an hour on one CPU core that supports bfloat16. Complete runs are not run
again, and interrupted runs are resumed.
"""

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import timm
import torch
import torchvision

from experiments.common.runs import DOCS, write_text
from experiments.common.tables import table

EXAMPLES = Path(__file__).resolve().parents[1]
COMMAND = "--model abn_cifar_resnet --model-arguments depth=20 --amp bfloat16 --channels-last --workers 0"
Rows = list[dict[str, str]]


def run(output: Path, plain: bool, *options: object) -> Rows:
    """Trains one network, in one thread, and returns its log. A complete run is not run again."""
    words = [*COMMAND.split(), *options, *["--plain"] * plain, "--output", output, "--resume"]
    command = [sys.executable, EXAMPLES / "train.py", *words]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with (output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report(plain: list[Rows], abn: list[Rows], times: list[tuple[float, float]], epochs: int) -> str:
    """Returns the page, from the logs of all seeds, and seconds per epoch without and with the branch."""
    columns = {
        "plain": [100 * float(rows[-1]["validation_top1_plain"]) for rows in plain],
        "ABN, attention branch": [100 * float(rows[-1]["validation_top1_attention"]) for rows in abn],
        "ABN, perception branch": [100 * float(rows[-1]["validation_top1_perception"]) for rows in abn],
    }
    rows = [["seed", *columns]]
    for seed in range(len(plain)):
        rows.append([str(seed), *(f"{values[seed]:.1f}" for values in columns.values())])
    for name, summary in (
        ("mean", statistics.mean),
        ("standard deviation", statistics.stdev),
        ("worst", min),
    ):
        rows.append([f"**{name}**", *(f"{summary(values):.1f}" for values in columns.values())])
    gain = statistics.mean(columns["ABN, perception branch"]) - statistics.mean(columns["plain"])
    ratios = [with_branch / without for without, with_branch in times]
    return PAGE.format(
        epochs=epochs,
        command=COMMAND,
        results=table(rows),
        gain=gain,
        pairs=len(ratios),
        median=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        versions=f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}",
        machine=platform.machine(),
    )


PAGE = """\
# With and without an attention branch

Accuracy of a small network with and without an attention branch, and the time of an epoch.
Written by `python examples/experiments results` from the logs of its runs.

ResNet-20 for CIFAR learns handwritten digits among clutter, 48 × 48 pixels, with 1300 images to train on and
497 to test on (`examples/digits.py`). Each run trains for {epochs} epochs with

```bash
python examples/train.py {command} --seed 0  # with --plain, and without
```

and all other options at their defaults. Accuracy on the test images after the last epoch, in %:

{results}

The perception branch gives the prediction. Its mean accuracy differs from the plain network's by {gain:+.1f}.

Time of an epoch with the attention branch, over the time of an epoch without, in {pairs} pairs of epochs in
turn: median {median:.2f}, from {least:.2f} to {most:.2f}. Both times include drawing the digits.

{machine}, one thread, {versions}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=Path("runs/compare"), help="of the runs")
    parser.add_argument("--output", type=Path, default=DOCS / "results.md")
    arguments = parser.parse_args()
    logs: dict[bool, list[Rows]] = {True: [], False: []}
    times = []
    for seed in range(arguments.seeds):
        for plain in (True, False):
            output = arguments.directory / f"{'plain' if plain else 'abn'}{seed}"
            logs[plain].append(run(output, plain, "--epochs", arguments.epochs, "--seed", seed))
    for pair in range(arguments.seeds):
        without, with_branch = (
            run(arguments.directory / f"time{pair}" / name, plain, "--epochs", 1, "--warmup-epochs", 0)
            for name, plain in (("plain", True), ("abn", False))
        )
        times.append((float(without[0]["seconds"]), float(with_branch[0]["seconds"])))
    write_text(arguments.output, report(logs[True], logs[False], times, arguments.epochs))
