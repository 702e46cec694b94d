"""The task of examples/solar_cells.py: tells defective solar cells from sound ones.

pip install elpv-dataset
"""

from solar_cells import CLASSES, Cells, load_cells

from experiments.tasks.images import Images, Task


def cells(size: int) -> Task:
    """Loads the task, with images of ``size`` × ``size`` pixels."""
    try:
        train, test = load_cells(size)
    except ImportError as error:
        raise FileNotFoundError(
            "there is no package with the solar cells: pip install elpv-dataset"
        ) from error
    return Task("cells", list(CLASSES), images_of(train), images_of(test), flips=(-1, -2))


def images_of(cells: Cells) -> Images:
    return Images(cells.pixels, cells.labels)
