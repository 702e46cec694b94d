"""Pictures of attention maps.

- :mod:`abn.visualize.overlays`: the public functions draw a map over its image, or several in one picture.
- :mod:`abn.visualize.panels`: arranges several panels in one picture, with text.
- :mod:`abn.visualize.predictions`: puts the logits of an image into words.
- :mod:`abn.visualize.folder`: draws a picture for each image of a folder, for ``python -m abn explain``.
"""

from abn.visualize.overlays import Sign, grid, overlay, task_grid

__all__ = ["Sign", "grid", "overlay", "task_grid"]
