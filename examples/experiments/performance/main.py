"""Measures what logits with a map cost, and writes docs/performance.md with its picture.

    pip install ".[benchmark]"
    python examples/experiments performance

All contenders take turns within one run: networks with an attention branch, the plain backbone, and on this
backbone Grad-CAM and other methods of other libraries. Libraries that are not installed are left out. Runs on
a GPU if there is one. Two hours on two CPU cores with --batches 1 8 32. What is complete is not measured
again.
"""

import argparse
import json
import platform
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from training.options import count, positive

from abn.saving import replacing
from experiments.common.runs import DOCS, logged, write_text
from experiments.performance.contenders import NETWORKS
from experiments.performance.inference import arithmetic, score_cam, timed
from experiments.performance.page import page
from experiments.performance.picture import picture
from experiments.performance.startup import import_seconds, wrapping_seconds
from experiments.performance.training import memory, memory_in_training, timed_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=count, default=[1, 8, 32, 128])
    parser.add_argument("--training-networks", nargs="*", choices=NETWORKS, default=["resnet18", "resnet50"])
    parser.add_argument("--training-batch", type=count, default=16)
    parser.add_argument("--seconds", type=positive, default=60, help="to spend on each comparison")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--directory", type=Path, default=Path("runs/performance"), help="of the logs")
    parser.add_argument("--output", type=Path, default=DOCS, help="directory of the page")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but PyTorch sees no GPU: install a driver, or leave the option out")
    arguments.output.mkdir(parents=True, exist_ok=True)
    device, spent = arguments.device, arguments.seconds
    directory = arguments.directory / device
    directory.mkdir(parents=True, exist_ok=True)

    networks = [NETWORKS[name] for name in arguments.networks]
    logged(directory / "imports.json", import_seconds)
    logged(directory / "wrapping.json", wrapping_seconds)
    for network in networks:
        logged(directory / f"arithmetic_{network.name}.json", partial(arithmetic, network))
        for batch in arguments.batches:
            file = directory / f"times_{network.name}_{batch}.json"
            logged(file, partial(timed, network, batch, spent, device))
        batch = max((batch for batch in arguments.batches if batch <= 8), default=min(arguments.batches))
        file = directory / f"memory_{network.name}_{batch}.json"
        logged(file, partial(memory, network, batch, device))
    logged(directory / "score_cam.json", partial(score_cam, NETWORKS["resnet18"], device))
    for name in arguments.training_networks:
        batch = arguments.training_batch
        file = directory / f"training_{name}_{batch}.json"
        logged(file, partial(timed_steps, NETWORKS[name], batch, spent, device))
        file = directory / f"training_memory_{name}_{batch}.json"
        logged(file, partial(memory_in_training, NETWORKS[name], batch, device))

    logged(directory / "machine.json", partial(machine, device))
    commands = logged(directory / "commands.json", list)
    command = " ".join(["python", *sys.argv])
    if command not in commands:  # several commands may have made the logs, since each keeps what is complete
        write_text(directory / "commands.json", json.dumps([*commands, command]))
    write_text(arguments.output / "performance.md", page(arguments.directory))
    with replacing(arguments.output / f"performance_{device}.png") as file:
        picture(directory).savefig(file, format="png", dpi=100)


def machine(device: str) -> dict[str, str]:
    """Describes the machine and the libraries of the measurement."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        model = next(models, platform.machine())
        name = f"{model}, {torch.get_num_threads()} threads"
    libraries = ("torch", "torchvision", "torchcam", "grad-cam", "captum")
    versions = [f"{library} {installed(library) or '(not installed)'}" for library in libraries]
    return {
        "kind": device,
        "device": "GPU" if device == "cuda" else "CPU",
        "machine": name,
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
    }


def installed(library: str) -> str | None:
    """Returns the version of a library, if it is installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
