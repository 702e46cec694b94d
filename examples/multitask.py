"""Trains networks with a map per task, and writes docs/multitask.md with its picture.

    python examples/multitask.py --jobs 2

ResNet-20 on images of several digits (several_digits.py): is there a 0, a 1, ..., a 9, and what is their sum?
Five seeds for each network, the same budget; and what the passes through all maps cost. An hour on two CPU
cores that know bfloat16. Runs that are complete are not run again.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch
from explanations import logged
from multitasking.cost import measure
from multitasking.page import page, picture
from multitasking.runs import KINDS, run
from tqdm import tqdm

from abn.saving import replacing

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one CPU core each")
    parser.add_argument("--directory", type=Path, default=Path("runs/multitask"), help="of the runs")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs", help="directory of the page")
    arguments = parser.parse_args()
    directory = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)

    work = [
        partial(run, kind, seed, arguments.epochs, directory)
        for kind in (None, *KINDS)
        for seed in range(arguments.seeds)
    ]
    with ProcessPoolExecutor(arguments.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        runs = [pool.submit(part) for part in work]
        for done in tqdm(as_completed(runs), total=len(runs), unit="run"):
            done.result()
    costs = logged(directory / "cost.json", measure)

    with replacing(arguments.output / "multitask.png") as file:
        picture(directory).save(file, format="png")
    with replacing(arguments.output / "multitask.md") as file:
        file.write_text(page(directory, arguments.seeds, arguments.epochs, costs), encoding="utf-8")


if __name__ == "__main__":
    main()
