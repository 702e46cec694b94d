"""A step of training: time of all networks in turn, and the memory of each; and the memory of one forward.

    cd examples
    python -m experiments.performance.training resnet50 official 8 cpu [eager|accelerated]

prints the MiB that a forward, or a step in this form, adds to a new process that holds the network and the
images.
"""

import gc
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
from experiments.performance.contenders import MODELS, NETWORKS, Network, official
from experiments.performance.forms import channels_last
from experiments.performance.inference import SIZE, inference
from experiments.performance.measure import added_memory, in_turn, nested


def checkpointed(backbone: nn.Module) -> ABN:
    """The official function, the stage of its attention branch computed again for the gradients."""
    model = official(backbone)
    stage = model.attention_branch.stage
    stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
    return model


CHECKPOINTED = "official, stage checkpointed"
TRAINED = {**MODELS, CHECKPOINTED: checkpointed}
TRAINED_FORMS = {
    "eager": tuple(TRAINED),
    "accelerated": ("plain", "straightforward", "official", "light"),  # to compile takes minutes
}
"""And which networks are trained in them."""


def step_of(
    model: nn.Module, images: Tensor, form: str = "eager"
) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """Forward, gradients and update, as in a loop over batches; and the optimizer that makes the updates."""
    accelerated = form == "accelerated"
    model.train()
    if accelerated:
        model, images = channels_last(model, images)
    forward = torch.compile(model) if accelerated else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    criterion = ABNLoss()

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=accelerated):
            output = forward(images)
            is_abn = isinstance(output, ABNOutput)
            loss = criterion(output, labels) if is_abn else F.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, optimizer


def timed_steps(network: Network, batch: int, spent: float, device: str) -> dict[str, dict[str, list[float]]]:
    """Seconds of a step of each network in each of its forms."""
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64  # the networks share their code
    torch.manual_seed(0)
    backbone, images = network.build().to(device), torch.randn(batch, 3, SIZE, SIZE, device=device)
    steps = {
        (row, form): step_of(TRAINED[row](backbone), images, form)[0]
        for form, rows in TRAINED_FORMS.items()
        for row in rows
    }
    return nested(in_turn(steps, spent, device))


def memory(network: Network, batch: int, device: str) -> dict[str, float]:
    """MiB that a forward of each network needs beside what holds it and the images."""
    return {row: memory_of(network, row, batch, device) for row in MODELS}


def memory_in_training(network: Network, batch: int, device: str) -> dict[str, dict[str, float]]:
    """The same of a step of training, in each form."""
    return nested(
        {
            (row, form): memory_of(network, row, batch, device, form)
            for form, rows in TRAINED_FORMS.items()
            for row in rows
        }
    )


def memory_of(network: Network, row: str, batch: int, device: str, form: str | None = None) -> float:
    """Of one of them, measured in a new process; of a step if its form is given."""
    command = [
        sys.executable,
        "-m",
        "experiments.performance.training",
        network.name,
        row,
        str(batch),
        device,
    ]
    command += [form] if form else []
    examples = Path(__file__).parents[2]
    # So that the C library gives back what is freed, or it would count as there already.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(
        command, cwd=examples, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(result.stdout)


def main() -> None:
    name, row, batch, device, *form = sys.argv[1:]
    backbone = NETWORKS[name].build().to(device)
    model, images = TRAINED[row](backbone), torch.randn(int(batch), 3, SIZE, SIZE, device=device)
    del backbone
    if form:
        call, optimizer = step_of(model, images, *form)
        call()  # what libraries allocate once; and it compiles
        optimizer.zero_grad()
        optimizer.state.clear()  # the step that is measured makes its own
        gc.collect()
    else:
        call = inference(model.eval(), images)
        with torch.no_grad():
            model(images[:2, :, :64, :64])
    print(added_memory(call, device))


if __name__ == "__main__":
    main()
