"""Measures time and memory of a step of training, of all networks in turn, and memory of one forward."""

import gc
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from abn import ABN, ABNLoss, ABNOutput
from experiments.common.memory import added_memory, in_new_process
from experiments.common.timing import in_turn
from experiments.performance.contenders import MODELS, NETWORKS, Network, official
from experiments.performance.forms import channels_last
from experiments.performance.inference import SIZE, inference
from experiments.performance.measure import LEAST_ROUNDS, nested


def checkpointed(backbone: nn.Module) -> ABN:
    """Builds the official function. The stage of its branch is computed again for the gradients."""
    model = official(backbone)
    stage = model.attention_branch.stage
    stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
    return model


TRAINED = {**MODELS, "checkpointed": checkpointed}
TRAINED_FORMS = {
    "eager": tuple(TRAINED),
    "accelerated": ("plain", "straightforward", "official", "light"),  # compiling takes minutes
}
"""Forms of training, and the networks that are trained in each."""


def step_of(
    model: nn.Module, images: Tensor, form: str = "eager"
) -> tuple[Callable[[], None], torch.optim.Optimizer]:
    """Returns a call of forward, gradients and update, as in a loop over batches; and its optimizer."""
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
    """Times a step of each network in each of its forms, in seconds."""
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 64  # the networks share code, which is compiled for each
    torch.manual_seed(0)
    backbone, images = network.build().to(device), torch.randn(batch, 3, SIZE, SIZE, device=device)
    steps = {
        (row, form): step_of(TRAINED[row](backbone), images, form)[0]
        for form, rows in TRAINED_FORMS.items()
        for row in rows
    }
    return nested(in_turn(steps, rounds=LEAST_ROUNDS, seconds=spent, device=device))


def memory(network: Network, batch: int, device: str) -> dict[str, float]:
    """Measures the MiB that a forward of each network adds to network and images."""
    return {row: in_new_process(memory_of, network.name, row, batch, device) for row in MODELS}


def memory_in_training(network: Network, batch: int, device: str) -> dict[str, dict[str, float]]:
    """Measures the MiB that a step of training of each network adds, in each form."""
    return nested(
        {
            (row, form): in_new_process(memory_of, network.name, row, batch, device, form)
            for form, rows in TRAINED_FORMS.items()
            for row in rows
        }
    )


def memory_of(name: str, row: str, batch: int, device: str, form: str | None = None) -> float:
    """Measures the MiB of a forward, or of a training step in a form. Has to be called in a new process."""
    backbone = NETWORKS[name].build().to(device)
    model, images = TRAINED[row](backbone), torch.randn(batch, 3, SIZE, SIZE, device=device)
    del backbone
    if form is None:
        call = inference(model.eval(), images)
        with torch.no_grad():
            model(images[:2, :, :64, :64])
    else:
        call, optimizer = step_of(model, images, form)
        call()  # libraries allocate some memory only once; and this compiles
        optimizer.zero_grad()
        optimizer.state.clear()  # the measured step makes its own state
        gc.collect()
    return added_memory(call, device)
