"""Finds the data sets, and makes loaders that share them among the processes."""

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from digits import CANVAS, place, scans
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import auto_augment_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder
from torchvision.transforms import v2 as transforms

from abn.images import files_in, ignored, is_image, read_image
from abn.preprocessing import CIFAR, Preprocessing
from training.distributed import Processes
from training.randomness import seed_everything, seed_of
from training.stop import wait_for_the_trainer

DATA_SETS = ("digits", "cifar10", "cifar100")


@dataclass
class Data:
    """Images with their labels, and how they are prepared."""

    train: Dataset  # of (PIL image, label)
    validation: Dataset
    labels: list[int]  # of the training images
    classes: list[str]
    preprocessing: Preprocessing | None  # None: the model's own
    augmentation: Callable[[Preprocessing, str | None], Callable[[Image.Image], Tensor]]


def find_data(name: str, root: Path, uncropped: bool, processes: Processes) -> Data:
    """Finds a data set by name, or as a folder with ``train/`` and ``val/``, one folder per class in each.

    Raises:
        ValueError, OSError: If there is no such data set, or it cannot be trained on.
    """
    if name == "digits":
        classes = [str(digit) for digit in range(10)]
        unscaled = Preprocessing((CANVAS, CANVAS), (CANVAS, CANVAS), mean=(0.0,) * 3, std=(1.0,) * 3)
        train, validation = ClutteredDigits(train=True), ClutteredDigits(train=False)
        return Data(train, validation, train.labels.tolist(), classes, unscaled, no_augmentation)
    if name in ("cifar10", "cifar100"):
        cifar = CIFAR10 if name == "cifar10" else CIFAR100
        with processes.leader_first():
            train, validation = cifar(root, train=True, download=True), cifar(root, train=False)
        return Data(train, validation, train.targets, train.classes, CIFAR, crop_and_flip)
    folders = [Path(name) / part for part in ("train", "val")]
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(
            f"data is {name!r}, but there is no folder {' and no '.join(missing)}: expected "
            f"{', '.join(DATA_SETS)}, or a folder with train/ and val/, one folder per class in each"
        )
    train, validation = (ClassFolders(str(folder), loader=read_image) for folder in folders)
    if different := set(train.classes) ^ set(validation.classes):
        raise ValueError(
            f"{' and '.join(map(str, folders))} differ in the classes {', '.join(sorted(different))}"
        )
    if len(train.classes) < 2:
        raise ValueError(f"{folders[0]} holds the one class {train.classes[0]}, expected a folder per class")
    for folder in folders:
        if processes.leader and (told := _ignored_in(folder)):
            print(f"warning: {folder}: {told}", file=sys.stderr)
    augmentation = flip if uncropped else crop_resize_and_flip
    return Data(train, validation, train.targets, train.classes, None, augmentation)


def _ignored_in(folder: str | Path) -> str:
    return ignored(files_in(Path(folder)))


class ClassFolders(ImageFolder):
    """One folder of images per class. Hidden files and folders, which systems create, are left out."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = sorted(path.name for path in Path(directory).glob("[!.]*") if path.is_dir())
        if not classes:
            raise FileNotFoundError(f"there are no folders of classes in {directory}")
        return classes, {name: index for index, name in enumerate(classes)}

    def make_dataset(self, directory: str, class_to_idx: dict[str, int], *_: Any, **__: Any) -> list:
        try:
            return super().make_dataset(directory, class_to_idx, is_valid_file=is_image)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{directory}: {error} {_ignored_in(directory)}") from error


class ClutteredDigits(Dataset):
    """The images of digits.py. In training, digits move in every epoch; in validation, they stay in place."""

    def __init__(self, train: bool) -> None:
        self.digits, self.labels = scans(train)
        self.fixed = None if train else place(self.digits, self.digits, torch.Generator().manual_seed(0))[0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if self.fixed is None:
            image = place(self.digits[index : index + 1], self.digits)[0][0]
        else:
            image = self.fixed[index]
        return transforms.functional.to_pil_image(image).convert("RGB"), int(self.labels[index])


def no_augmentation(preprocessing: Preprocessing, policy: str | None) -> Callable[[Image.Image], Tensor]:
    """Returns the preprocessing alone: for digits, which must not be mirrored."""
    return preprocessing


def crop_and_flip(preprocessing: Preprocessing, policy: str | None) -> Callable[[Image.Image], Tensor]:
    """Returns the usual augmentation for CIFAR, which the official code uses too."""
    size = preprocessing.size
    return transforms.Compose(
        [
            transforms.Resize(size),
            transforms.RandomCrop(size, padding=4),
            transforms.RandomHorizontalFlip(),
            *_of_policy(preprocessing, policy),
            preprocessing,
        ]
    )


def flip(preprocessing: Preprocessing, policy: str | None) -> Callable[[Image.Image], Tensor]:
    """Returns an augmentation for images that must not be cropped."""
    return transforms.Compose(
        [transforms.RandomHorizontalFlip(), *_of_policy(preprocessing, policy), preprocessing]
    )


def _of_policy(preprocessing: Preprocessing, policy: str | None) -> list[Any]:
    if policy is None:
        return []
    mean = tuple(round(255 * value) for value in preprocessing.mean)
    limits = {"translate_const": preprocessing.size[0] // 2, "img_mean": mean}
    return [auto_augment_transform(policy, limits)]


def crop_resize_and_flip(preprocessing: Preprocessing, policy: str | None) -> Callable[[Image.Image], Tensor]:
    """Returns the usual augmentation for ImageNet, which the official code uses too."""
    transform: Callable[[Image.Image], Tensor] = create_transform(
        (3, *preprocessing.size),
        is_training=True,
        color_jitter=None,
        auto_augment=policy,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return transform


@dataclass
class Prepared(Dataset):
    """Images as tensors. The augmentation of an image depends only on seed, epoch and index."""

    images: Dataset
    transform: Callable[[Image.Image], Tensor]
    seed: int = 0

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        seed_everything("image", self.seed, epoch, index)
        image, label = self.images[index]
        return self.transform(image), label


@dataclass
class TrainingBatches:
    """Shuffles the images in every epoch, cuts them into batches, and gives each process its part of each.

    So a batch holds the same images however many processes share it, and an epoch can be resumed at any
    batch. The last images of an epoch are left out if they do not fill a batch; in the next epoch these are
    other images.
    """

    images: int
    batch_size: int  # of all processes together
    seed: int
    processes: Processes
    epoch: int = 0
    start: int = 0

    def __len__(self) -> int:
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, self.epoch))
        order = torch.randperm(self.images, generator=generator).tolist()
        part = self.batch_size // self.processes.count
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size + self.processes.rank * part
            yield [(self.epoch, index) for index in order[first : first + part]]


def training_loader(images: Dataset, options: Namespace, batches: TrainingBatches) -> DataLoader:
    return _loader(images, options.workers, batch_sampler=batches)


def augmented_images(data: Data, preprocessing: Preprocessing, options: Namespace) -> Prepared:
    try:
        augmentation = data.augmentation(preprocessing, options.auto_augment)
    except (AssertionError, KeyError, ValueError) as error:  # from timm, which reads the policy
        raise ValueError(f"--auto-augment is {options.auto_augment!r}, no policy of timm: {error}") from error
    return Prepared(data.train, augmentation, options.seed)


def validation_loader(
    data: Data, preprocessing: Preprocessing, options: Namespace, processes: Processes
) -> DataLoader:
    """Loads every image once, in one of the processes. So processes may get different numbers of images."""
    part = [(0, index) for index in range(processes.rank, len(data.validation), processes.count)]
    batch_size = math.ceil(options.batch_size / processes.count)
    images = Prepared(data.validation, preprocessing)
    return _loader(images, options.workers, sampler=part, batch_size=batch_size)


def _loader(images: Dataset, workers: int, **arguments: Any) -> DataLoader:
    return DataLoader(
        images,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=wait_for_the_trainer,
        **arguments,
    )


def fetch(batches: Iterator[list[Tensor]]) -> tuple[list[Tensor] | None, str | None]:
    """Returns the next batch, or None at the end, and an error message if an image cannot be read."""
    try:
        return next(batches, None), None
    except Exception as error:  # whatever a decoder raises
        # An error in a loading process arrives with its traceback in the text; the last line is the error.
        return None, (str(error).strip() or type(error).__name__).splitlines()[-1]
