"""What comes before the first forward: importing the library, and wrapping a backbone."""

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
    """Seconds that importing the library adds to importing torch and torchvision, in pairs in turn."""

    def seconds(statement: str) -> float:
        code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)

    measured = [{name: seconds(code) for name, code in IMPORTS.items()} for _ in range(pairs + 1)]
    return [pair["with"] - pair["without"] for pair in measured[1:]]  # the first ones fill the disk's cache


def wrapping_seconds(repetitions: int = 3) -> dict[str, tuple[float, float, float]]:
    """Of each classifier in torchvision, seconds: the first wrap, then the median of more, and of copying it.

    Left out are those that are no networks of feature maps.
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
    gc.collect()  # what was left by the work before
    return duration(work, "cpu")
