"""Reads what was measured on a device, and compares measurements."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.performance.contenders import METHODS, NETWORKS, Network

Times = dict[str, dict[str, list[float]]]


def median(values: Sequence[float]) -> str:
    """Writes the median with the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def best(forms: dict[str, list[float]]) -> str:
    """Returns the fastest form."""
    return min(forms, key=lambda form: statistics.median(forms[form]))


def fastest_method(times: Times) -> tuple[str, list[float]]:
    """Returns the fastest method of other libraries, with its times in its best form."""
    bests = {row: times[row][best(times[row])] for row in METHODS if row in times}
    row = min(bests, key=lambda row: statistics.median(bests[row]))
    return row, bests[row]


class Logs:
    """The logs of one device."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machine = self.read("machine")
        self.networks = [n for n in NETWORKS.values() if self.batches(n) and self.batches(n, "memory")]

    def read(self, name: str) -> Any:
        return json.loads((self.directory / f"{name}.json").read_text(encoding="utf-8"))

    def batches(self, network: Network, kind: str = "times") -> list[int]:
        """Returns the batch sizes that were measured, and fitted into memory."""
        files = self.directory.glob(f"{kind}_{network.name}_*.json")
        batches = sorted(int(file.stem.rpartition("_")[2]) for file in files)
        return [batch for batch in batches if self.read(f"{kind}_{network.name}_{batch}")]

    def times(self, network: Network, batch: int) -> Times:
        return self.read(f"times_{network.name}_{batch}")

    def flops_ratio(self, network: Network, row: str) -> float:
        arithmetic = self.read(f"arithmetic_{network.name}")
        return arithmetic[row]["flops"] / arithmetic["plain"]["flops"]
