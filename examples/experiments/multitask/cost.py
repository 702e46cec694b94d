"""Measures what the passes of all tasks cost: folded into one batch, and one after another."""

from functools import partial
from itertools import product

import torch
from torch.nn import functional as F

from abn import ABN, ABNLoss, wrap_backbone
from experiments.common.memory import added_memory, in_new_process
from experiments.common.timing import in_turn, ratios

BACKBONE, SIZE, BATCH = "resnet18", 224, 4
TASKS = (10, 40)
CHUNKS = {"folded": None, "five at a time": 5, "loop": 1}
PAIRS = 5


def network(tasks: int, chunk: int | None) -> ABN:
    model = wrap_backbone(f"torchvision/{BACKBONE}", tasks=tasks)
    model.perception_branch.chunk = chunk
    return model


def step(model: ABN, images: torch.Tensor, training: bool) -> None:
    """Runs one pass, in training with its gradients."""
    with torch.set_grad_enabled(training):
        output = model.train(training)(images)
        if training:
            loss = ABNLoss(F.binary_cross_entropy_with_logits)
            loss(output, torch.zeros_like(output.perception_logits)).backward()


def time_ratios(tasks: int, training: bool) -> list[float]:
    """Measures the time of one folded pass over the time of the loop, in pairs in turn."""
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    calls = {chunk: partial(step, network(tasks, chunk), images, training) for chunk in (None, 1)}
    times = in_turn(calls, rounds=PAIRS)
    return ratios(times[None], times[1])


def peak_memory(tasks: int, training: bool, chunk: int | None) -> float:
    """Measures the MiB that one pass adds to network and images. Has to be called in a new process."""
    model, images = network(tasks, chunk), torch.randn(BATCH, 3, SIZE, SIZE)
    step(model, images[:, :, :64, :64], training)  # libraries allocate some memory only once
    return added_memory(partial(step, model, images, training))


def measure() -> list[dict[str, object]]:
    """Measures time and memory for each number of tasks, in evaluation and in training."""
    return [
        {
            "tasks": tasks,
            "phase": "training" if training else "evaluation",
            "threads": torch.get_num_threads(),
            "ratios": time_ratios(tasks, training),
            "memory": {
                title: in_new_process(peak_memory, tasks, training, chunk) for title, chunk in CHUNKS.items()
            },
        }
        for tasks, training in product(TASKS, (False, True))
    ]
