"""Pictures of attention maps.

- :mod:`abn.visualize.overlays`: the public functions draw a map over its image, or several in one picture.
- :mod:`abn.visualize.panels`: arranges several panels in one picture, with text.
- :mod:`abn.visualize.comparison`: the public function that shows the maps of several methods side by side.
"""

from pathlib import Path

from abn.visualize.comparison import compare
from abn.visualize.overlays import Sign, grid, overlay, task_grid

HEATMAP = Path(__file__).parent / "static" / "heatmap.js"
"""Draws maps as :func:`overlay` does, on pages in the browser."""

__all__ = ["Sign", "compare", "grid", "overlay", "task_grid"]
