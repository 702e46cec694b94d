"""Options, parallel runs and logged results, for all experiments."""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from abn.saving import replacing

DOCS = Path(__file__).resolve().parents[3] / "docs"


def options(description: str, directory: Path, *, budget: bool = True) -> argparse.Namespace:
    """Reads the options of the command line.

    Args:
        description: What the script does.
        directory: Where runs are logged by default.
        budget: Whether there are options for seeds and epochs.
    """
    parser = argparse.ArgumentParser(description=description)
    if budget:
        parser.add_argument("--seeds", type=int, default=5)
        parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one CPU core each")
    parser.add_argument("--directory", type=Path, default=directory, help="of the runs")
    parser.add_argument("--output", type=Path, default=DOCS, help="directory of the page")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    return arguments


def run_all(work: Sequence[Callable[[], object]], jobs: int) -> None:
    """Runs all work, so many jobs at once, each in a process of one thread."""
    with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        runs = [pool.submit(part) for part in work]
        for done in tqdm(as_completed(runs), total=len(runs), unit="run"):
            done.result()


def logged(file: Path, measure: Callable[[], Any]) -> Any:
    """Returns what the file holds. If there is no file, measures, and writes the result into it."""
    if not file.exists():
        print(f"measuring {file}", flush=True)
        result = measure()
        write_text(file, json.dumps(result, indent=2))
    return json.loads(file.read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step. If the run is stopped meanwhile, the old file stays whole."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
