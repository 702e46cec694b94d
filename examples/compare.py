"""Trains a network with and without its attention branch, and writes docs/results.md.

    python examples/compare.py

ResNet-20 on handwritten digits among clutter (digits.py), five seeds each, the same budget: an hour and a
half on one CPU core. Runs that are complete are not run again, and interrupted ones are resumed.
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

from abn.saving import replacing

HERE = Path(__file__).parent
COMMAND = "--model abn_cifar_resnet --model-arguments depth=20 --epochs {epochs} --seed {seed} --workers 0"
Rows = list[dict[str, str]]


def run(directory: Path, epochs: int, seed: int, plain: bool) -> Rows:
    """Trains one network, in one thread, and returns its log."""
    output = directory / f"{'plain' if plain else 'abn'}{seed}"
    words = COMMAND.format(epochs=epochs, seed=seed).split()
    command = [sys.executable, str(HERE / "train.py"), *words, "--output", str(output), "--resume"]
    subprocess.run(command + ["--plain"] * plain, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with (output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def report(plain: list[Rows], abn: list[Rows], epochs: int) -> str:
    """The page, from the logs of all seeds."""
    columns = {
        "plain": [100 * float(rows[-1]["validation_top1_plain"]) for rows in plain],
        "ABN, attention branch": [100 * float(rows[-1]["validation_top1_attention"]) for rows in abn],
        "ABN, perception branch": [100 * float(rows[-1]["validation_top1_perception"]) for rows in abn],
    }
    ratios = [
        seconds(with_branch) / seconds(without) for without, with_branch in zip(plain, abn, strict=True)
    ]
    lines = [
        "# With and without an attention branch",
        "",
        "Written by `python examples/compare.py` from the logs of its runs.",
        "",
        "ResNet-20 for CIFAR on handwritten digits among clutter, 48 × 48, 1300 images to train on and 497 "
        f"to test on (`examples/digits.py`); {epochs} epochs of",
        "",
        "```bash",
        f"python examples/train.py {COMMAND.format(epochs=epochs, seed=0)}  # with --plain, and without",
        "```",
        "",
        "with all other options at their defaults. Accuracy on the test images after the last epoch, in %; "
        "*time* is the median time of an epoch with the attention branch over that without.",
        "",
        f"| seed | {' | '.join(columns)} | time |",
        f"| --- |{' --- |' * (len(columns) + 1)}",
    ]
    for seed, ratio in enumerate(ratios):
        lines.append(
            f"| {seed} | {' | '.join(f'{values[seed]:.1f}' for values in columns.values())} | {ratio:.2f} |"
        )
    for name, summary in (
        ("mean", statistics.mean),
        ("standard deviation", statistics.stdev),
        ("worst", min),
    ):
        values = [f"{summary(values):.1f}" for values in columns.values()]
        times = max(ratios) if summary is min else summary(ratios)
        lines.append(f"| **{name}** | {' | '.join(values)} | {times:.2f} |")
    lines += [
        "",
        f"{platform.machine()}, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}.",
    ]
    return "\n".join(lines) + "\n"


def seconds(rows: Rows) -> float:
    return statistics.median(float(row["seconds"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=Path("runs/compare"), help="of the runs")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "results.md")
    arguments = parser.parse_args()
    plain, abn = [], []
    for seed in range(arguments.seeds):
        plain.append(run(arguments.directory, arguments.epochs, seed, plain=True))
        abn.append(run(arguments.directory, arguments.epochs, seed, plain=False))
    with replacing(arguments.output) as file:
        file.write_text(report(plain, abn, arguments.epochs), encoding="utf-8")


if __name__ == "__main__":
    main()
