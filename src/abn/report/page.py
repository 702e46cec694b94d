"""The page ``report.html``: one file, without a server, in which one sorts and filters the images."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import matplotlib

from abn.report.entries import Entry
from abn.saving import replacing
from abn.visualize import SHARED

_STATIC = Path(__file__).parent / "static"


def write_page(
    path: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    colormap: str,
    opacity: float,
    map_names: Sequence[str],
) -> None:
    """Writes the page.

    Args:
        path: File to write.
        entries: The images, in their order.
        title: What the page is about: the network and the folder.
        colormap: Name of a colour map of matplotlib, for the maps.
        opacity: Opacity of the maps, 0 to 1.
        map_names: Names of the maps of an image, if they are those of several methods. Else empty.
    """
    colors = matplotlib.colormaps[colormap](range(256), bytes=True)[:, :3].tolist()
    fields = (
        "image",
        "label",
        "prediction",
        "correct",
        "answers",
        "of_tasks",
        "size",
        "maps",
        "thumbnail",
        "error",
    )
    images = [{name: getattr(entry, name) for name in fields} for entry in entries]
    data = {"images": images, "colors": colors, "opacity": opacity, "mapNames": list(map_names)}
    text = (_STATIC / "report.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": escape(title),
        "STYLE": _joined(SHARED / "palette.css", _STATIC / "report.css"),
        "SCRIPT": _joined(SHARED / "heatmap.js", _STATIC / "report.js"),
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),  # no tag may end the script
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)  # in one pass: data may hold braces
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def _joined(*files: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
