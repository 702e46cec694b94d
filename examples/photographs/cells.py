"""Solar cells, sound or defective: electroluminescence photographs of the package ``elpv-dataset``.

    pip install elpv-dataset

2624 gray photographs of 300 × 300 pixels (Deitsch et al., "Automatic classification of defective photovoltaic
module cells in electroluminescence images", Solar Energy 2019; CC BY-NC-SA 4.0). Experts said how probable a
defect is: 0, 1/3, 2/3 or 1. As in the paper a cell counts as defective from one half on.
"""

import csv
import importlib.util
from pathlib import Path

import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torchvision.transforms.v2 import functional as transforms

from photographs.tasks import Images, Task

SPLIT_SEED = 0
TEST_SHARE = 0.25  # as in the paper, whose split is not in the package


def cells(size: int) -> Task:
    """The task, with images of ``size`` × ``size`` pixels."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise FileNotFoundError("there is no package with the solar cells: pip install elpv-dataset")
    root = Path(found.origin).parent / "data"
    with (root / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader((" ".join(line.split()) for line in file), delimiter=" "))
    kinds = [f"{probability} {crystal}" for _, probability, crystal in rows]
    train, test = train_test_split(rows, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=kinds)
    return Task("cells", ["sound", "defective"], read(root, train, size), read(root, test, size), (-1, -2))


def read(root: Path, rows: list[list[str]], size: int) -> Images:
    pixels = []
    for name, _, _ in rows:
        with Image.open(root / name) as file:
            image = file.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels.append(transforms.pil_to_tensor(image))
    labels = [int(float(probability) > 0.5) for _, probability, _ in rows]
    return Images(torch.stack(pixels), torch.tensor(labels))
