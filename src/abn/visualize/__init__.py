"""Pictures of attention maps.

- :mod:`abn.visualize.overlays`: the public functions: a map over its image, and several in one picture.
- :mod:`abn.visualize.panels`: several panels in one picture, with text.
- :mod:`abn.visualize.folder`: a picture for each image of a folder, as ``python -m abn explain`` makes them.
"""

from abn.visualize.overlays import Sign, grid, overlay, task_grid

__all__ = ["Sign", "grid", "overlay", "task_grid"]
