"""Times what comes before the first forward: importing the library, and wrapping a backbone."""

import copy
import gc
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torchvision

from abn import CutError, wrap_backbone
from experiments.common.timing import duration

IMPORTS = {"without": "import torch, torchvision", "with": "import torch, torchvision, abn"}


def import_seconds(pairs: int = 15) -> list[float]:
    """Measures the seconds that importing the library adds to importing torch and torchvision, in pairs."""

    def seconds(statement: str) -> float:
        code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    measured = [{name: seconds(code) for name, code in IMPORTS.items()} for _ in range(pairs + 1)]
    return [pair["with"] - pair["without"] for pair in measured[1:]]  # the first pair fills the disk's cache


def wrapping_seconds(repetitions: int = 3) -> dict[str, tuple[float, float, float]]:
    """Times each classifier of torchvision, in seconds: the first wrap, the median of more, and of copies.

    Classifiers without feature maps are left out.
    """
    seconds = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        backbone = torchvision.models.get_model(name, **arguments)
        size = 299 if name == "inception_v3" else 224
        wrap = partial(wrap_backbone, backbone, input_size=size, start="new")
        works = wrap, partial(copy.deepcopy, backbone)
        try:
            first = _seconds(works[0])
        except CutError:
            continue
        wrap, copied = zip(*(map(_seconds, works) for _ in range(repetitions)), strict=True)
        seconds[name] = first, statistics.median(wrap), statistics.median(copied)
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()  # frees what the work before has left
    return duration(work, "cpu")
