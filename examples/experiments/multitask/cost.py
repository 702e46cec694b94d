"""What the passes through the maps of all tasks cost: folded into one batch, and one after another."""

import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import torch
from torch.nn import functional as F

from abn import ABN, ABNLoss, wrap_backbone

BACKBONE, SIZE, BATCH = "resnet18", 224, 4
TASKS = (10, 40)
CHUNKS = {"folded": None, "five at a time": 5, "loop": 1}
PAIRS = 5


def network(tasks: int, chunk: int | None) -> ABN:
    model = wrap_backbone(f"torchvision/{BACKBONE}", tasks=tasks)
    model.perception_branch.chunk = chunk
    return model


def step(model: ABN, images: torch.Tensor, training: bool) -> None:
    """One pass; in training with its gradients."""
    with torch.set_grad_enabled(training):
        output = model.train(training)(images)
        if training:
            loss = ABNLoss(F.binary_cross_entropy_with_logits)
            loss(output, torch.zeros_like(output.perception_logits)).backward()


def time_ratios(tasks: int, training: bool) -> list[float]:
    """Time of one folded pass over that of the loop, in pairs in turn."""
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    models = [network(tasks, chunk) for chunk in (None, 1)]
    ratios = []
    for pair in range(PAIRS + 1):
        times = [0.0, 0.0]
        for index in (0, 1) if pair % 2 else (1, 0):  # neither is always the second
            start = time.perf_counter()
            step(models[index], images, training)
            times[index] = time.perf_counter() - start
        ratios.append(times[0] / times[1])
    return ratios[1:]  # the first ones allocate


def peak_memory(tasks: int, training: bool, chunk: int | None) -> float:
    """MiB that one pass adds to those of a new process that holds the network and the images."""
    command = [
        sys.executable,
        __file__,
        str(tasks),
        str(chunk or tasks),
        "training" if training else "evaluation",
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak() -> float:
    """The most memory that this process has had so far, in MiB; on Linux."""
    # Not getrusage(): what it tells begins with the peak of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10  # KiB


def measure() -> list[dict[str, object]]:
    """Time and memory for each number of tasks, in evaluation and in training."""
    return [
        {
            "tasks": tasks,
            "phase": "training" if training else "evaluation",
            "threads": torch.get_num_threads(),
            "ratios": time_ratios(tasks, training),
            "memory": {title: peak_memory(tasks, training, chunk) for title, chunk in CHUNKS.items()},
        }
        for tasks, training in product(TASKS, (False, True))
    ]


def main() -> None:
    tasks, chunk, training = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "training"
    model, images = network(tasks, chunk), torch.randn(BATCH, 3, SIZE, SIZE)
    step(model, images[:, :, :64, :64], training)  # what libraries allocate once
    before = peak()
    step(model, images, training)
    print(peak() - before)


if __name__ == "__main__":
    main()
