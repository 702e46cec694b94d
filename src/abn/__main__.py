"""The command line: ``python -m abn``."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import torch

from abn import hub
from abn.explain import explain, image_paths
from abn.perception import Mechanism
from abn.visualize import Sign

MECHANISM = "attention mechanism, where the weights do not tell it"


def main() -> None:
    """Runs the command that the arguments name. Ends with 1 if it failed, or did only a part."""
    parser = argparse.ArgumentParser(prog="python -m abn", description="Attention Branch Networks")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "convert", help="rewrites weights of the official code as safetensors, and back"
    )
    command.add_argument("source", help="what abn.hub.load takes: a file, a directory, a name, an address")
    command.add_argument("destination", help=".safetensors, or .pth.tar for the official code")
    command.add_argument("--mechanism", choices=get_args(Mechanism), help=MECHANISM)
    command.set_defaults(run=_convert)
    command = commands.add_parser("explain", help="shows for images where a network looks")
    command.add_argument("source", type=Path, metavar="IMAGE_OR_FOLDER")
    command.add_argument(
        "--model", required=True, help="what abn.hub.load takes: a name, a file, a directory"
    )
    command.add_argument("--mechanism", choices=get_args(Mechanism), help=MECHANISM)
    command.add_argument("--out", required=True, type=Path, help="folder for the pictures")
    command.add_argument("--batch-size", type=int, default=16, metavar="N", help="images at a time")
    command.add_argument("--rescale", action="store_true", help="stretches each map over all colours")
    command.add_argument(
        "--sign", choices=get_args(Sign), help="part of maps with both signs (default: both)"
    )
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.set_defaults(run=_explain)
    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except (OSError, ValueError) as error:
        sys.exit(f"abn: {error}")


def _convert(arguments: argparse.Namespace) -> int:
    hub.convert(arguments.source, arguments.destination, mechanism=arguments.mechanism)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}, expected at least 1")
    if arguments.rescale and arguments.sign:
        raise ValueError("--rescale and --sign exclude each other: leave one of them out")
    image_paths(arguments.source, arguments.out)  # before a model is fetched
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        device = torch.zeros(1, device=arguments.device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device is {arguments.device!r}, which is not to be had here: {error}") from error
    model = hub.load(arguments.model, mechanism=arguments.mechanism).to(device)
    skipped = explain(
        model,
        arguments.source,
        arguments.out,
        batch_size=arguments.batch_size,
        rescale=arguments.rescale,
        sign=arguments.sign,
    )
    print(f"pictures: {arguments.out}; images skipped: {len(skipped)}")
    return 1 if skipped else 0


if __name__ == "__main__":
    main()
