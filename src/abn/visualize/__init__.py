"""Pictures of attention maps.

- :mod:`abn.visualize.overlays`: the public functions draw a map over its image, or several in one picture.
- :mod:`abn.visualize.panels`: arranges several panels in one picture, with text.
- :mod:`abn.visualize.comparison`: the public function that shows the maps of several methods side by side.
"""

from pathlib import Path

from abn.visualize.comparison import compare
from abn.visualize.overlays import Sign, grid, overlay, task_grid

SHARED = Path(__file__).parent / "shared"
"""What pages in the browser share: their colours, and how maps are drawn, as :func:`overlay` does."""

__all__ = ["Sign", "compare", "grid", "overlay", "task_grid"]
