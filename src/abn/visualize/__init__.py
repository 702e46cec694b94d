"""Pictures of attention maps.

- :mod:`abn.visualize.overlays`: the public functions draw a map over its image, or several in one picture.
- :mod:`abn.visualize.panels`: arranges several panels in one picture, with text.
- :mod:`abn.visualize.predictions`: puts the logits of an image into words.
- :mod:`abn.visualize.comparison`: the public function that shows the maps of several methods side by side.
"""

from abn.visualize.comparison import compare
from abn.visualize.overlays import Sign, grid, overlay, task_grid

__all__ = ["Sign", "compare", "grid", "overlay", "task_grid"]
