"""A step of training: time of all networks in turn, and the memory of each; and the memory of one forward.

    cd examples
    python -m benchmarking.training resnet50 official 8 cpu [step]

prints the MiB that a forward, or a step, adds to a new process that holds the network and the images.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from abn import ABN, ABNLoss, ABNOutput
from benchmarking.contenders import MODELS, NETWORKS, Network, official
from benchmarking.inference import SIZE, inference
from benchmarking.measure import added_memory, in_turn


def checkpointed(backbone: nn.Module) -> ABN:
    """The official function, the stage of its attention branch computed again for the gradients."""
    model = official(backbone)
    stage = model.attention_branch.stage
    stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
    return model


CHECKPOINTED = "official, stage checkpointed"
TRAINED = {**MODELS, CHECKPOINTED: checkpointed}


def step_of(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Forward, gradients and update, as in a loop over batches."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    criterion = ABNLoss()

    def step() -> None:
        output = model(images)
        is_abn = isinstance(output, ABNOutput)
        loss = criterion(output, labels) if is_abn else F.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed_steps(network: Network, batch: int, spent: float, device: str) -> dict[str, list[float]]:
    """Seconds of a step of each network, as it comes."""
    torch.manual_seed(0)
    backbone, images = network.build().to(device), torch.randn(batch, 3, SIZE, SIZE, device=device)
    steps = {row: step_of(build(backbone), images) for row, build in TRAINED.items()}
    return in_turn(steps, spent, device)


def memory(network: Network, batch: int, device: str, training: bool) -> dict[str, float]:
    """MiB that each network needs beside what holds it and the images."""
    return {
        row: memory_of(network, row, batch, device, training) for row in (TRAINED if training else MODELS)
    }


def memory_of(network: Network, row: str, batch: int, device: str, training: bool) -> float:
    """The same of one of them, measured in a new process."""
    command = [sys.executable, "-m", "benchmarking.training", network.name, row, str(batch), device]
    command += ["step"] if training else []
    examples = Path(__file__).parents[1]
    # So that the C library gives back what is freed, or it would count as there already.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(
        command, cwd=examples, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(result.stdout)


def main() -> None:
    name, row, batch, device, *training = sys.argv[1:]
    backbone = NETWORKS[name].build().to(device)
    model, images = TRAINED[row](backbone), torch.randn(int(batch), 3, SIZE, SIZE, device=device)
    del backbone
    call = step_of(model, images) if training else inference(model.eval(), images)
    small = images[:2, :, :64, :64]
    with torch.no_grad():
        model(small)  # what libraries allocate once
    print(added_memory(call, device))


if __name__ == "__main__":
    main()
