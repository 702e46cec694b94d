"""Solar cells, sound or defective: electroluminescence photographs of the package ``elpv-dataset``.

    pip install elpv-dataset

2624 gray photographs of 300 × 300 pixels (Deitsch et al., "Automatic classification of defective photovoltaic
module cells in electroluminescence images", Solar Energy 2019; CC BY-NC-SA 4.0). Experts said how probable a
defect is: 0, 1/3, 2/3 or 1. As in the paper a cell counts as defective from one half on.
"""

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torchvision.transforms.v2 import functional as transforms

from experiments.tasks.images import Images, Task

SPLIT_SEED = 0
TEST_SHARE = 0.25  # as in the paper, whose split is not in the package


def cells(size: int) -> Task:
    """The task, with images of ``size`` × ``size`` pixels."""
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise FileNotFoundError(
            "there is no package with the solar cells: pip install elpv-dataset"
        ) from error
    photographs, probabilities, crystals = load_dataset()
    kinds = [f"{probability} {crystal}" for probability, crystal in zip(probabilities, crystals, strict=True)]
    train, test = train_test_split(
        np.arange(len(kinds)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=kinds
    )
    parts = [images_of(photographs[chosen], probabilities[chosen], size) for chosen in (train, test)]
    return Task("cells", ["sound", "defective"], *parts, flips=(-1, -2))


def images_of(photographs: np.ndarray, probabilities: np.ndarray, size: int) -> Images:
    """Photographs (N, H, W), uint8, with the probability of a defect (N,)."""
    resized = [
        Image.fromarray(each).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        for each in photographs
    ]
    pixels = torch.stack([transforms.pil_to_tensor(each) for each in resized])
    return Images(pixels, torch.from_numpy(probabilities > 0.5).long())
