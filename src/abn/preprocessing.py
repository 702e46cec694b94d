"""Prepares images for a network: resizes, crops and normalises them."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, cast

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from abn.images import as_rgb
from abn.images import read_image as read_image  # for code that imports it from here

_logger = logging.getLogger("abn.preprocessing")

LONGEST = 10_000
"""Largest number of pixels of a side that a file may ask for. A file that asks for more means harm."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizes, crops and normalises images, as in the evaluation of the network that takes them.

    The defaults are those of the official code, and of most networks, for ImageNet.

    Args:
        size: Height and width, in pixels, of the image that the network sees.
        resize: Height and width to which an image is resized first, or one number for both. Its centre is
            then cropped to ``size``, or black is added around it.
        mean: Mean of red, green and blue, in 0..1, which is subtracted from the image.
        std: Standard deviation of red, green and blue, by which the image is divided.
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` or ``"lanczos"``.
        crop_mode: As in timm. ``"center"`` keeps the proportions of the image, and resizes it to cover
            ``resize``. ``"border"`` keeps the proportions, resizes the image to lie within ``resize``, and
            adds a border in the colour of ``mean``. ``"squash"`` changes the proportions. Default:
            ``"center"`` if ``resize`` is one number, else ``"squash"``.

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
    crop_mode: str | None = None

    def __post_init__(self) -> None:
        def is_tuple_of(values: object, kind: type | tuple[type, ...], count: int) -> bool:
            return (
                isinstance(values, tuple) and [isinstance(value, kind) for value in values] == [True] * count
            )

        if not (is_tuple_of(self.size, int, 2) and 0 < min(self.size) <= max(self.size) <= LONGEST):
            raise ValueError(f"size is {self.size!r}, expected (height, width), of 1 to {LONGEST} pixels")
        whole = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if not (is_tuple_of(whole, int, 2) and 0 < min(whole) <= max(whole) <= LONGEST):
            raise ValueError(
                f"resize is {self.resize!r}, expected pixels, or (height, width), of 1 to {LONGEST} pixels"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not (is_tuple_of(values, (int, float), 3) and all(map(math.isfinite, values))):
                raise ValueError(f"{name} is {values!r}, expected three numbers: of red, green and blue")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"mean is {self.mean!r}, expected 0 to 1: divide mean and std by 255")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std!r}, expected numbers above 0")
        if self.interpolation not in list(_RESAMPLING):
            raise ValueError(f"interpolation is {self.interpolation!r}, expected {', '.join(_RESAMPLING)}")
        if self.crop_mode not in [None, "center", "squash", "border"]:
            raise ValueError(f"crop_mode is {self.crop_mode!r}, expected center, squash or border")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Builds a preprocessing from JSON, in which its tuples are lists.

        Raises:
            TypeError, ValueError: If a value has an unknown name, or is not as described.
        """
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**arguments)

    def __call__(self, image: Image.Image) -> Tensor:
        """Turns a PIL image into the tensor (3, H, W) that the network takes.

        Raises:
            TypeError, ValueError: If ``image`` is no PIL image, or its pixels have an unknown range, see
                :func:`abn.images.as_rgb`.
        """
        image = self._without_unseen_ends(as_rgb(image))
        resized = image.resize(self._resized(image.size), _RESAMPLING[self.interpolation])
        left, top = self._offsets(resized.size)
        seen = Image.new("RGB", self.size[::-1], self._background())
        seen.paste(resized, (-left, -top))
        pixels = transforms.pil_to_tensor(seen).float() / 255
        tensor: Tensor = transforms.normalize(pixels, list(self.mean), list(self.std))
        return tensor

    def view(self, image: Image.Image, longest: int | None = None) -> Image.Image:
        """Returns the part of a PIL image that the network sees, as RGB.

        Args:
            image: Image in any mode that :func:`abn.images.as_rgb` takes.
            longest: Pixels of the longer side of the result. Default: as many as that part of the image has,
                but at most 10,000.
        """
        image = as_rgb(image)
        _check_pixels(image)
        size = self._resized(image.size)
        scales = [side / resized for side, resized in zip(image.size, size, strict=True)]
        width, height = (
            max(round(side * scale), 1) for side, scale in zip(self.size[::-1], scales, strict=True)
        )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        box = max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height)
        scale = min(LONGEST / max(width, height), 1) if longest is None else longest / max(width, height)

        def scaled(across: int, down: int) -> tuple[int, int]:
            return max(round(across * scale), 1), max(round(down * scale), 1)

        part = image.resize(scaled(box[2] - box[0], box[3] - box[1]), box=box)
        view = Image.new("RGB", scaled(width, height), self._background())
        view.paste(part, (round(scale * (box[0] - left)), round(scale * (box[1] - top))))
        return view

    def at(self, size: tuple[int, int]) -> "Preprocessing":
        """Returns the preprocessing for another ``size``, with ``resize`` changed in proportion."""
        height, width = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        resize = round(height * size[0] / self.size[0]), round(width * size[1] / self.size[1])
        if isinstance(self.resize, int) and resize[0] == resize[1]:
            return replace(self, size=size, resize=resize[0])
        return replace(self, size=size, resize=resize, crop_mode=self._crop_mode)

    def keeps_same_part_as(self, other: "Preprocessing") -> bool:
        """Returns whether both preparations keep one and the same part of every image, in whatever size."""
        if self._crop_mode != other._crop_mode:
            return False
        (rows, columns, proportions), others = self._frame(), other._frame()
        pairs = [(rows, others[0]), (columns, others[1])]
        if self._crop_mode != "squash":
            pairs.append((proportions, others[2]))
        tolerance = 2 / min(*self.size, *other.size)  # sizes are rounded to pixels
        return all(math.isclose(one, another, rel_tol=tolerance) for one, another in pairs)

    def _frame(self) -> tuple[float, float, float]:
        """Returns the image's rows and columns over those of the crop, and the crop's proportions."""
        rows, columns = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        height, width = self.size
        return rows / height, columns / width, height / width

    @property
    def _crop_mode(self) -> str:
        return self.crop_mode or ("center" if isinstance(self.resize, int) else "squash")

    def _without_unseen_ends(self, image: Image.Image) -> Image.Image:
        """Cuts off the ends of a very long and thin image, which the network does not see.

        Without this, resizing an image of 400,000 × 1 pixels would take more memory than there is.
        """
        _check_pixels(image)
        if self._crop_mode != "center":
            return image  # its size after resizing has a limit
        resized = self._resized(image.size)
        crop = []
        for side, length, seen in zip(image.size, resized, self.size[::-1], strict=True):
            kept = max(4 * seen, 2 * min(resized))
            cut = (side - round(side * kept / length)) // 2 if length > kept else 0
            crop.append(max(cut, 0))
        left, top = crop
        box = left, top, image.width - left, image.height - top
        return image.crop(box) if left or top else image

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the width and height to which an image of this width and height is resized."""
        width, height = size
        rows, columns = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self._crop_mode == "squash":
            return columns, rows
        if self._crop_mode == "center" and rows == columns:  # as in torchvision
            return (rows, rows * height // width) if width <= height else (rows * width // height, rows)
        choose = max if self._crop_mode == "border" else min
        ratio = choose(height / rows, width / columns)  # as in timm
        return max(round(width / ratio), 1), max(round(height / ratio), 1)

    def _offsets(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Returns left and top of the crop in pixels of the resized image, below 0 if a border is added."""
        pairs = zip(resized, self.size[::-1], strict=True)
        left, top = (
            # torchvision rounds to one side where it adds a border, and to the other where it crops.
            -((seen - side) // 2) if seen > side else round((side - seen) / 2)
            for side, seen in pairs
        )
        return left, top

    def _background(self) -> tuple[int, ...]:
        """Returns the colour that is added around the image."""
        return tuple(round(255 * value) for value in self.mean) if self._crop_mode == "border" else (0, 0, 0)


_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _check_pixels(image: Image.Image) -> None:
    if 0 in image.size:
        raise ValueError(f"the image has {image.width} × {image.height} pixels, expected at least one")


CIFAR = Preprocessing((32, 32), (32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
"""Preprocessing of the official code's ``cifar.py``."""

CELEBA = Preprocessing(resize=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
"""Preprocessing of the official multi-task code: pixels in 0..1, not normalised."""


def preprocessing_of(backbone: nn.Module) -> Preprocessing | None:
    """Returns the preprocessing that timm states for a backbone, or None if it states none for RGB images."""
    known = cast(dict[str, Any], getattr(backbone, "pretrained_cfg", None) or {})
    if len(known.get("mean", ())) != 3:
        return None
    _, *size = known["input_size"]
    height, width = (math.floor(side / (known.get("crop_pct") or 0.875)) for side in size)
    return Preprocessing(
        tuple(size),
        height if height == width else (height, width),
        tuple(known["mean"]),
        tuple(known["std"]),
        known.get("interpolation") or "bilinear",
        known.get("crop_mode") or "center",
    )


def stated_preprocessing(model: Any) -> Preprocessing:
    """Returns the preparation of images that a network states. Without one, warns and returns ImageNet's.

    Raises:
        ValueError: If the network states something else than a preparation.
    """
    if model.preprocessing is None:
        _logger.warning(
            "the network does not tell how its images are prepared: taken for ImageNet's %s", Preprocessing()
        )
        return Preprocessing()
    if not isinstance(model.preprocessing, Preprocessing):
        raise ValueError(
            f"model.preprocessing is a {type(model.preprocessing).__name__}, expected a Preprocessing, or "
            "None"
        )
    return model.preprocessing
