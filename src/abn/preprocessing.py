"""What is done to an image before a network sees it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms


@dataclass(frozen=True)
class Preprocessing:
    """Resizes, crops and normalises images as in the evaluation of the network they are for.

    The defaults are those of the official code, and of most networks, for ImageNet.

    Args:
        size: Height and width in pixels of what the network sees.
        resize: Length that the shorter side gets before the centre is cropped to ``size``, or black is added
            around it; or height and width, and the proportions of the image are not kept.
        mean: Of red, green and blue, in 0..1, subtracted from the image.
        std: Standard deviations, which the image is divided by.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` or ``"lanczos"``.

    Raises:
        ValueError: If a value is not as described.

    Example:
        >>> Preprocessing()(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        def are(values: object, kind: type | tuple[type, ...], count: int) -> bool:
            return (
                isinstance(values, tuple) and [isinstance(value, kind) for value in values] == [True] * count
            )

        if not (are(self.size, int, 2) and min(self.size) > 0):
            raise ValueError(f"size is {self.size!r}, expected (height, width) in pixels")
        whole = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if not (are(whole, int, 2) and min(whole) > 0):
            raise ValueError(f"resize is {self.resize!r}, expected pixels, or (height, width) in pixels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not (are(values, (int, float), 3) and all(map(math.isfinite, values))):
                raise ValueError(f"{name} is {values!r}, expected three numbers: of red, green and blue")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std!r}, expected numbers above 0")
        if self.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
            raise ValueError(
                f"interpolation is {self.interpolation!r}, expected nearest, bilinear, bicubic or lanczos"
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image to what the network takes, (3, H, W)."""
        target = [self.resize] if isinstance(self.resize, int) else list(self.resize)
        mode = InterpolationMode(self.interpolation)
        resized = transforms.resize(image.convert("RGB"), target, interpolation=mode)
        pixels = transforms.pil_to_tensor(transforms.center_crop(resized, list(self.size)))
        tensor: Tensor = transforms.normalize(pixels.float() / 255, list(self.mean), list(self.std))
        return tensor

    def view(self, image: Image.Image) -> Image.Image:
        """The part of a PIL image that the network sees, in the image's own resolution."""
        if isinstance(self.resize, int):
            scales = [min(image.size) / self.resize] * 2
        else:
            scales = [image.height / self.resize[0], image.width / self.resize[1]]
        height, width = (side * scale for side, scale in zip(self.size, scales, strict=True))
        width, height = max(round(width), 1), max(round(height), 1)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def at(self, size: tuple[int, int]) -> "Preprocessing":
        """The same for another size of images, which are resized in proportion."""
        if isinstance(self.resize, int):
            resize: int | tuple[int, int] = round(self.resize * max(size) / max(self.size))
        else:
            resize = (
                round(self.resize[0] * size[0] / self.size[0]),
                round(self.resize[1] * size[1] / self.size[1]),
            )
        return replace(self, size=size, resize=resize)


CIFAR = Preprocessing((32, 32), (32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""As in the official code's ``cifar.py``."""

CELEBA = Preprocessing(resize=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
"""As in the official multi-task code: pixels in 0..1, not normalised."""


def preprocessing_of(backbone: nn.Module) -> Preprocessing | None:
    """What timm says of a backbone of its own; none for others."""
    known = cast(dict[str, Any], getattr(backbone, "pretrained_cfg", None) or {})
    if len(known.get("mean", ())) != 3:
        return None
    _, *size = known["input_size"]
    height, width = (math.floor(side / (known.get("crop_pct") or 0.875)) for side in size)
    return Preprocessing(
        tuple(size),
        (height, width) if known.get("crop_mode") == "squash" else max(height, width),
        tuple(known["mean"]),
        tuple(known["std"]),
        known.get("interpolation") or "bilinear",
    )


def read_image(path: str | Path) -> Image.Image:
    """Opens a picture in any format that PIL reads as RGB, turned upright by its EXIF tag.

    Of pictures with several frames the first is taken; pixels of 16 bits are cut to the upper 8.

    Raises:
        OSError: If the file is no whole picture, or its pixels are real numbers, of unknown range.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
            if image.mode == "F":
                raise ValueError("pixels are real numbers of unknown range, expected 8 or 16 bits")
            if image.mode.startswith("I"):  # PIL's own conversion would cut off all that is above 255
                image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except Exception as error:  # a decoder may fail in any way
        raise OSError(f"{path} cannot be read as an image: {str(error) or type(error).__name__}") from error
