"""The command line: ``python -m abn``."""

import argparse
import sys

from abn import hub


def main() -> None:
    """Runs the command that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m abn", description="Attention Branch Networks")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser(
        "convert", help="rewrites weights of the official code as safetensors, and back"
    )
    convert.add_argument("source", help="what abn.hub.load takes: a file, a directory, a name, an address")
    convert.add_argument("destination", help=".safetensors, or .pth.tar for the official code")
    arguments = parser.parse_args()
    try:
        hub.convert(arguments.source, arguments.destination)
    except (OSError, ValueError) as error:
        sys.exit(f"abn: {error}")


if __name__ == "__main__":
    main()
