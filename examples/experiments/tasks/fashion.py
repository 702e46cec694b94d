"""The task Fashion-MNIST, read from the files of a Debian package.

    apt-get install dataset-fashion-mnist

70,000 photographs of products, 28 × 28 pixels, gray, in ten classes (Xiao et al., arXiv 1708.07747; MIT).
"""

import tempfile
from pathlib import Path

import torch
from torchvision.datasets import FashionMNIST
from torchvision.datasets.utils import extract_archive

from experiments.tasks.images import Images, Task

PACKAGE = Path("/usr/share/datasets/fashion-mnist")


def fashion() -> Task:
    """Loads the task, with the usual 60,000 images to train on and 10,000 to test with."""
    if not PACKAGE.is_dir():
        raise FileNotFoundError(f"there is no folder {PACKAGE}: apt-get install dataset-fashion-mnist")
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "FashionMNIST", "raw")  # where torchvision looks
        raw.mkdir(parents=True)
        for file in PACKAGE.glob("*.gz"):
            extract_archive(str(file), str(raw))
        parts = [FashionMNIST(root, train=train) for train in (True, False)]
    train, test = (Images(part.data.unsqueeze(1), part.targets.to(torch.int64)) for part in parts)
    return Task("fashion", parts[0].classes, train, test, (-1,))
