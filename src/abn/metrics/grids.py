"""The grid pointing game: several images side by side, and whether a class's map finds its image."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from abn.metrics.inputs import as_float_maps
from abn.metrics.localization import energy_pointing_game


def choose_grids(
    logits: Tensor, labels: Tensor, *, side: int = 2, count: int = 100, confidence: float = 0.5, seed: int = 0
) -> Tensor:
    """Chooses images of different classes for grids, among the images that the network is sure of.

    Args:
        logits: Logits of the explained network for each single image, (N, K).
        labels: The true classes, (N,).
        side: Number n of images in a row, and of rows.
        count: Number G of grids. An image may be in several grids.
        confidence: Smallest probability that the network must give an image's true class.
        seed: Seed of the random choice.

    Returns:
        (G, n²), int64: indices of images.

    Raises:
        ValueError: If the shapes do not fit together, a label is no class, ``side`` is below 2, ``count`` is
            below 1, or fewer than n² classes have an image that the network is sure of.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}, expected (N, K) and (N,)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(f"a label is not one of the {logits.shape[1]} classes, expected numbers from 0 on")
    if side < 2 or count < 1:
        raise ValueError(f"side is {side} and count {count}, expected at least 2 and 1")
    sure = logits.float().softmax(dim=1).gather(1, labels[:, None])[:, 0] >= confidence
    of_class = [(sure & (labels == label)).nonzero()[:, 0].cpu() for label in range(logits.shape[1])]
    of_class = [indices for indices in of_class if len(indices)]
    if len(of_class) < side**2:
        raise ValueError(
            f"a grid takes images of {side**2} classes, but only {len(of_class)} have one that the network "
            f"gives its class with a probability of {confidence}: use other images, or a lower confidence"
        )
    generator = torch.Generator().manual_seed(seed)

    def random_one(indices: Tensor) -> Tensor:
        return indices[torch.randint(len(indices), (), generator=generator)]

    grids = []
    for _ in range(count):
        classes = torch.randperm(len(of_class), generator=generator)[: side**2]
        grids.append(torch.stack([random_one(of_class[label]) for label in classes]))
    return torch.stack(grids).to(labels.device)


def grid_pointing_game(
    explain: Callable[[Tensor, Tensor], Tensor], images: Tensor, classes: Tensor
) -> Tensor:
    """Measures the share of a class's map that lies on the image of this class, in a grid of n × n images.

    Böhle et al., "Convolutional Dynamic Alignment Networks", CVPR 2021, section 5.2, call it localisation
    metric. Rao et al., "Towards Better Understanding Attribution Methods", CVPR 2022, use it too. By chance,
    and for a map that does not depend on the class, the mean is 1 / n². Unlike the pointing game, the grid
    pointing game needs no masks.

    Args:
        explain: Takes images (B, C, H, W) and classes (B,), and returns maps (B, 1, h, w) or (B, h, w), such
            as :meth:`abn.ABN.class_map`. It is called once for each grid, with one copy of the grid for each
            of its n² classes. Negative values of the maps count as 0.
        images: The images of G grids, (G, n², C, H, W), row by row. They keep their full size.
        classes: Class of each image, (G, n²), such as the labels of the images that :func:`choose_grids`
            chooses. All classes of a grid must differ.

    Returns:
        (G, n²), in [0, 1]. A map that is 0 everywhere scores 0.

    Raises:
        ValueError: If the shapes do not fit together, a class is twice in a grid, or a map holds NaN.

    Example:
        >>> from abn import wrap_backbone
        >>> model = wrap_backbone("torchvision/resnet18").eval()
        >>> images, labels = torch.randn(8, 3, 64, 64), torch.arange(8)  # yours
        >>> logits = model(images).perception_logits
        >>> chosen = choose_grids(logits, labels, count=2, confidence=0)
        >>> grid_pointing_game(model.class_map, images[chosen], labels[chosen]).shape
        torch.Size([2, 4])
    """
    side = math.isqrt(images.shape[1]) if images.ndim == 5 else 0
    if side < 2 or side**2 != images.shape[1] or classes.shape != images.shape[:2]:
        raise ValueError(
            f"got images {tuple(images.shape)} and classes {tuple(classes.shape)}, expected "
            "(G, n², C, H, W) and (G, n²) with n of at least 2"
        )
    if (classes.sort(dim=1).values.diff(dim=1) == 0).any():
        raise ValueError("a class is twice in a grid, expected different ones: its map belongs to two images")
    height, width = images.shape[-2:]
    masks = torch.zeros(side**2, side * height, side * width, dtype=torch.bool)
    for cell, mask in enumerate(masks):
        top, left = cell // side * height, cell % side * width
        mask[top : top + height, left : left + width] = True
    shares = []
    for cells, labels in zip(images, classes, strict=True):
        rows = cells.unflatten(0, (side, side)).permute(2, 0, 3, 1, 4)  # (C, n, H, n, W)
        grid = rows.reshape(-1, side * height, side * width)
        maps = explain(grid.repeat(side**2, 1, 1, 1), labels).detach()  # frees the graph of each grid
        shares.append(energy_pointing_game(as_float_maps(maps).clamp(min=0), masks.to(maps.device)))
    return torch.stack(shares)
