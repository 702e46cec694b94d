"""Training images with the attention maps that were edited for some of them."""

import hashlib
from argparse import Namespace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from abn import ABNLoss, ABNOutput, AttentionMapLoss
from abn.edits import Edits
from abn.modules.inputs import resize_maps
from abn.preprocessing import Preprocessing
from training.data import ClassFolders, Data, augmented_images
from training.randomness import seed_everything

SIZE = 32
"""Height and width to which edited maps are resized, so that a batch holds maps of one size."""


class WithEdits(Dataset):
    """Training images as tensors, each with its label, its edited map (1, h, w), and whether it has one.

    Image and map are mirrored together, or not. There is no other augmentation: a map belongs to the part of
    an image that the network sees.
    """

    def __init__(self, images: ClassFolders, edits: Edits, preprocessing: Preprocessing, seed: int) -> None:
        root = Path(images.root)
        self.images, self.preprocessing, self.seed = images, preprocessing, seed
        self.names = [Path(file).relative_to(root).as_posix() for file, _ in images.samples]
        if unknown := sorted(edits.keys() - set(self.names)):
            raise ValueError(f"{edits.folder} holds edits for {unknown[:5]}, which are no images in {root}")
        self.maps = {name: _map_of_one_task(edits, name) for name in edits}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, Tensor, bool]:
        epoch, index = key
        seed_everything("image", self.seed, epoch, index)
        image, label = self.images[index]
        prepared, name = self.preprocessing(image), self.names[index]
        attention_map = self.maps.get(name, torch.zeros(1, SIZE, SIZE))
        if torch.rand(()) < 0.5:
            prepared, attention_map = prepared.flip(-1), attention_map.flip(-1)
        return prepared, label, attention_map, name in self.maps


def _map_of_one_task(edits: Edits, name: str) -> Tensor:
    attention_map = edits[name]
    if len(attention_map) != 1:
        raise ValueError(f"{edits.folder} holds {len(attention_map)} maps for {name}, expected one")
    return resize_maps(attention_map[None], (SIZE, SIZE))[0]


def training_images(data: Data, preprocessing: Preprocessing, options: Namespace) -> Dataset:
    """Returns the training images as tensors: augmented, or with their edited maps if the options name some.

    Raises:
        FileNotFoundError: If there is no folder of edits.
        ValueError: If the edits do not belong to these images, or to this preparation of them.
    """
    if options.edited_maps is None:
        return augmented_images(data, preprocessing, options)
    if not isinstance(data.train, ClassFolders):
        raise ValueError(f"--edited-maps is for images of a folder, not for {options.data}")
    edits = Edits(options.edited_maps)
    if not edits.preprocessing.keeps_same_part_as(preprocessing):
        raise ValueError(
            f"{edits.folder} was made for images prepared by {edits.preprocessing}, but the network sees "
            f"another part of them, prepared by {preprocessing}: is --uncropped missing, or too much?"
        )
    return WithEdits(data.train, edits, preprocessing, options.seed)


@cache
def digest_of(folder: Path) -> str:
    """Returns a number that changes with the edited maps, for comparing the options of two runs."""
    digest = hashlib.sha256()
    edits = Edits(folder)
    for name in sorted(edits):
        digest.update(name.encode() + edits[name].numpy().tobytes())
    return digest.hexdigest()


def create_loss(criterion: nn.Module, options: Namespace) -> nn.Module:
    """Returns the training loss: of the scores of a plain network, of both branches, or of their maps too."""
    if options.plain:
        return criterion
    return ABNLoss(criterion) if options.edited_maps is None else EditLoss(criterion, options)


class EditLoss(nn.Module):
    """The loss of the scores, and a weight times the distance between the network's maps and edited ones."""

    def __init__(self, criterion: nn.Module, options: Namespace) -> None:
        super().__init__()
        self.scores = ABNLoss(criterion)
        self.maps = AttentionMapLoss(options.map_loss)
        self.weight = options.map_weight

    def forward(self, output: ABNOutput, labels: Tensor, maps: Tensor, given: Tensor) -> Tensor:
        distance = self.maps(output.attention_map.float(), maps, given=given)
        return self.scores(output, labels) + self.weight * distance
