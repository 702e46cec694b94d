"""The command line: ``python -m abn``."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from abn import hub
from abn.images import image_paths
from abn.modules.maps import MAPS
from abn.modules.mechanisms import MECHANISMS
from abn.network import ABN
from abn.report.folder import PAGE, explain
from abn.retrofit.wrap import wrap_backbone
from abn.visualize import Sign
from abn.visualize.comparison import METHODS

_EXAMPLES = """examples:
  python -m abn explain photos --model torchvision/mobilenet_v2 --out maps
  python -m abn edit photos/val --model runs/photos/best --out edits
  python -m abn convert model_best.pth.tar model.safetensors
  python -m abn models

python -m abn COMMAND --help tells the options of a command."""


def main() -> None:
    """Runs the command that the arguments name. Exits with 1 if the command fails or skips images."""
    parser = argparse.ArgumentParser(
        prog="python -m abn",
        description="Attention Branch Networks: image classifiers that show where they looked.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    command = commands.add_parser("explain", help="draws where a network looks in images, with a report")
    _add_images_and_network(command)
    command.add_argument(
        "--class",
        dest="of_class",
        metavar="CLASS",
        help="name or number of a class: shows the evidence for it (default: for the classes that are seen)",
    )
    command.add_argument("--out", required=True, type=Path, help="folder for the pictures")
    command.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="images at a time (default: 16)"
    )
    command.add_argument(
        "--rescale", action="store_true", help="stretches the range of each map over all colours"
    )
    command.add_argument(
        "--sign", choices=get_args(Sign), help="part to show of maps with both signs (default: both)"
    )
    command.add_argument("--opacity", type=float, default=0.5, help="of the maps, 0 to 1 (default: 0.5)")
    command.add_argument("--colormap", metavar="NAME", help="a colour map of matplotlib (default: jet)")
    command.add_argument(
        "--compare",
        choices=METHODS,
        help="draws the map of another method beside it; needs torch-cam or grad-cam",
    )
    command.add_argument(
        "--top",
        type=int,
        metavar="N",
        help="pictures for the N images of which the network is least sure (default: for all)",
    )
    command.set_defaults(run=_explain)
    command = commands.add_parser("edit", help="opens a page in the browser, to paint attention on images")
    _add_images_and_network(command)
    command.add_argument("--out", required=True, type=Path, help="folder for the edited maps")
    command.add_argument(
        "--masks",
        type=Path,
        help="masks from which an edit can start: a folder of pictures, named like the images, white on the "
        "object; or a .json file of segmentations in COCO's format",
    )
    command.add_argument("--read-only", action="store_true", help="shows edits, and saves none")
    command.add_argument(
        "--host", default="127.0.0.1", help="network interface to listen on (default: this machine alone)"
    )
    command.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    command.add_argument("--no-browser", action="store_true", help="prints the address, and does not open it")
    command.set_defaults(run=_edit)
    command = commands.add_parser(
        "convert", help="rewrites weights of the official code as safetensors, and back"
    )
    command.add_argument("source", help="file, directory, name or address, as for abn.hub.load")
    command.add_argument("destination", help="file to write: .safetensors, or .pth.tar for the official code")
    _add_mechanism_and_map(command)
    command.set_defaults(run=_convert)
    command = commands.add_parser("models", help="lists the networks that have published weights")
    command.set_defaults(run=_models)
    arguments = parser.parse_args()
    if arguments.command is None:
        parser.print_help()
        sys.exit(0)
    try:
        sys.exit(arguments.run(arguments))
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"abn: {error}")
    except KeyboardInterrupt:
        print("abn: interrupted", file=sys.stderr)
        sys.exit(130)


def _add_images_and_network(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="IMAGE_OR_FOLDER")
    command.add_argument(
        "--model",
        required=True,
        help="name, file or directory, as for abn.hub.load; or timm/... or torchvision/..., a pretrained "
        "classifier, which explains itself without training",
    )
    command.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="weights for a timm/... or torchvision/... model (default: pretrained weights of its library)",
    )
    command.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="height and width of the images that a timm/... or torchvision/... model sees; larger images "
        "make a finer map (default: what the model asks for)",
    )
    command.add_argument(
        "--split",
        metavar="NAME",
        help="where a timm/... or torchvision/... model is cut, see abn.find_splits; an earlier place makes "
        "a finer map (default: where its last stage begins)",
    )
    _add_mechanism_and_map(command)
    command.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1 and so on (default: %(default)s)",
    )


def _add_mechanism_and_map(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mechanism", choices=MECHANISMS, help="attention mechanism, if the weights do not tell it"
    )
    command.add_argument("--map", choices=MAPS, help="kind of map, if the weights do not tell it")


def _convert(arguments: argparse.Namespace) -> int:
    hub.convert(arguments.source, arguments.destination, mechanism=arguments.mechanism, map=arguments.map)
    return 0


def _models(_: argparse.Namespace) -> int:
    print(hub.available())
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.rescale and arguments.sign:
        raise ValueError("--rescale and --sign exclude each other: leave one of them out")
    image_paths(arguments.source, arguments.out)  # raises its errors before a model is fetched
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = _network(arguments)
    skipped = explain(
        model,
        arguments.source,
        arguments.out,
        method=arguments.compare,
        top=arguments.top,
        batch_size=arguments.batch_size,
        rescale=arguments.rescale,
        sign=arguments.sign,
        opacity=arguments.opacity,
        colormap=arguments.colormap,
        of_class=None if arguments.of_class is None else _class_number(arguments.of_class, model),
    )
    report = arguments.out / PAGE
    size = report.stat().st_size / 1e6
    print(f"pictures: {arguments.out}; images skipped: {len(skipped)}; report: {report} ({size:.1f} MB)")
    return 1 if skipped else 0


def _edit(arguments: argparse.Namespace) -> int:
    try:
        from abn.editor.server import serve
        from abn.editor.session import Session
    except ImportError as error:
        raise ValueError(f"{error}; install what the page needs: pip install 'abn[edit]'") from error
    image_paths(arguments.source, arguments.out)  # raises its errors before a model is fetched
    if arguments.masks is not None and not arguments.masks.exists():
        raise FileNotFoundError(f"--masks is {arguments.masks}, but there is no such folder or file")
    session = Session(
        _network(arguments),
        arguments.source,
        arguments.out,
        name=arguments.model,
        masks=arguments.masks,
        read_only=arguments.read_only,
    )
    serve(session, host=arguments.host, port=arguments.port, open_browser=not arguments.no_browser)
    return 0


def _network(arguments: argparse.Namespace) -> ABN:
    """Makes the network on the device, which is tried first."""
    try:
        probe = torch.zeros(1, device=arguments.device)
        probe.item()  # fails on "meta", which holds no numbers
    except Exception as error:  # each kind of device raises its own kind of error
        raise ValueError(
            f"--device is {arguments.device!r}, which is not available on this machine: {error}"
        ) from error
    return _on_cpu(arguments).to(probe.device)


def _on_cpu(arguments: argparse.Namespace) -> ABN:
    """Loads a saved network, or turns a pretrained classifier into one."""
    library = arguments.model.partition("/")[0]
    if library not in ("timm", "torchvision") or Path(arguments.model).exists():
        for option in ("backbone_weights", "image_size", "split"):
            if getattr(arguments, option) is not None:
                name = option.replace("_", "-")
                raise ValueError(
                    f"--{name} is for --model timm/... or torchvision/..., not for {arguments.model}"
                )
        return hub.load(arguments.model, mechanism=arguments.mechanism, map=arguments.map)
    weights: dict[str, Any] = {"backbone_weights": arguments.backbone_weights}
    if arguments.backbone_weights is None:
        weights = {"pretrained": True} if library == "timm" else {"weights": "DEFAULT"}
    try:
        return wrap_backbone(
            arguments.model,
            start="pretrained",  # fails without weights: maps of new heads mean nothing
            map=arguments.map,
            mechanism=arguments.mechanism,
            input_size=arguments.image_size,
            split=arguments.split,
            **weights,
        ).eval()
    except (RuntimeError, OSError) as error:  # there are no weights of this name, or no connection
        if isinstance(error, OSError) and arguments.backbone_weights is not None:
            raise
        raise ValueError(
            f"{library} gives no weights for {arguments.model}: {error}\nGive a file, --backbone-weights FILE"
        ) from error


def _class_number(asked: str, model: ABN) -> int:
    """Returns the number of the class that is asked for by its number or by its name."""
    if asked.isdecimal():
        return int(asked)
    names = [name.lower() for name in model.classes or ()]
    numbers = [number for number, name in enumerate(names) if name == asked.lower()]
    if len(numbers) > 1:
        raise ValueError(f"--class is {asked!r}, the name of classes {numbers}: give one of these numbers")
    if not numbers:
        similar = ", ".join(difflib.get_close_matches(asked.lower(), names))
        hint = f"similar: {similar}" if similar else "give its number"
        raise ValueError(f"--class is {asked!r}, expected the name or number of a class; {hint}")
    return numbers[0]


if __name__ == "__main__":
    main()
