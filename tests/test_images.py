"""Photographs of every kind are read in one way, and no image takes memory that it does not need."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from abn import Preprocessing
from abn.images import as_rgb, files_in, ignored, is_image, read_image
from abn.visualize import overlay

RAMP = np.array([[0, 1, 128, 255]], dtype=np.uint8)
EXACT = Preprocessing((1, 4), (1, 4), mean=(0, 0, 0), std=(1, 1, 1))

READABLE = {
    "gray": Image.fromarray(RAMP),
    "gray with alpha": Image.fromarray(RAMP).convert("LA"),
    "colours": Image.fromarray(RAMP).convert("RGB"),
    "colours with alpha": Image.fromarray(RAMP).convert("RGBA"),
    "palette": Image.fromarray(RAMP).convert("P"),
    "print": Image.fromarray(RAMP).convert("RGB").convert("CMYK"),
    "16 bits": Image.fromarray(RAMP.astype("<u2") * 256 + 7),
    "16 bits, big-endian": Image.frombytes(
        "I;16B", (4, 1), (RAMP.astype("u2") * 256 + 7).astype(">u2").tobytes()
    ),
}
UNKNOWN = {
    "32 bits": Image.fromarray(RAMP.astype(np.int32)),
    "real numbers": Image.fromarray(RAMP.astype(np.float32)),
}


@pytest.mark.parametrize("image", READABLE.values(), ids=READABLE)
def test_all_readers_see_the_same_gray(image, tmp_path):
    expected = torch.from_numpy(RAMP.repeat(3, axis=0)).view(3, 1, 4)

    def colours(rgb):
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)

    assert torch.equal(colours(as_rgb(image)), expected)
    assert torch.equal((EXACT(image) * 255).round().to(torch.uint8), expected)
    assert torch.equal(colours(overlay(image, torch.zeros(1, 1), opacity=0)), expected)
    assert torch.equal(colours(EXACT.view(image)), expected)
    if image.mode == "I;16":
        (tmp_path / "image.pgm").write_bytes(b"P5 4 1 65535\n" + np.asarray(image).astype(">u2").tobytes())
        assert torch.equal(colours(read_image(tmp_path / "image.pgm")), expected)
    if image.mode != "I;16B":  # which no format of PIL's keeps
        image.save(tmp_path / "image.tiff")
        assert torch.equal(colours(read_image(tmp_path / "image.tiff")), expected)


@pytest.mark.parametrize("image", UNKNOWN.values(), ids=UNKNOWN)
def test_all_readers_refuse_pixels_of_unknown_range(image, tmp_path):
    image.save(tmp_path / "image.tiff")
    for read in (as_rgb, EXACT, EXACT.view, lambda image: overlay(image, torch.zeros(1, 1))):
        with pytest.raises(
            ValueError, match=r"of unknown range, expected 8 or 16 bits: scale them to 0\.\.255"
        ):
            read(image)
    with pytest.raises(
        OSError, match=r"image\.tiff cannot be read as an image: pixels are .* of unknown range"
    ):
        read_image(tmp_path / "image.tiff")


@pytest.mark.parametrize("given", ["image.png", RAMP])
def test_what_is_no_picture_is_refused(given):
    for read in (as_rgb, EXACT, EXACT.view):
        with pytest.raises(
            TypeError, match=r"image is a (str|ndarray), expected a PIL image, such as of read_image"
        ):
            read(given)


@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000), (30_000, 30)])
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing((224, 224), (224, 224)),
        Preprocessing((128, 256), (128, 256), crop_mode="center"),
        Preprocessing((224, 224), 236, crop_mode="border"),
        Preprocessing((64, 64), 2000),
    ],
    ids=["center", "squash", "not square", "border", "much larger than what is seen"],
)
def test_long_thin_image_takes_memory_for_what_is_seen(size, preprocessing, monkeypatch):
    largest = 0
    resize, new = Image.Image.resize, Image.new

    def watched(make):
        def made(*args, **kwargs):
            nonlocal largest
            image = make(*args, **kwargs)
            largest = max(largest, image.width * image.height)
            return image

        return made

    image = Image.new("RGB", size, "white")
    monkeypatch.setattr(Image.Image, "resize", watched(resize))
    monkeypatch.setattr(Image, "new", watched(new))
    assert preprocessing(image).shape == (3, *preprocessing.size)
    assert max(preprocessing.view(image, longest=384).size) == 384
    assert largest < 10_000_000


def test_middle_of_a_long_image_is_seen():
    pixels = torch.zeros(1, 4000, 3, dtype=torch.uint8)
    pixels[0, 2000] = 255
    seen = Preprocessing((8, 8), 8, mean=(0,) * 3, std=(1,) * 3)(Image.fromarray(pixels.numpy()))
    assert seen[:, :, :4].max() < 0.6 < seen[:, :, 4:].max()


def test_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="the image has 0 × 4 pixels, expected at least one"):
        Preprocessing()(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("a.jpg", "a.JPEG", "a.png", "a.gif", "a.webp", "a.tif", "b/a.bmp")),
        *((name, False) for name in ("a.txt", "a", ".a.jpg", "a.eps", "a.mpg", "a.jpg.part")),
    ],
)
def test_images_are_known_by_their_ending(name, expected):
    assert is_image(name) == expected


def test_what_is_no_image_is_counted():
    paths = [*map(Path, ("a.jpg", "a.txt", "b/c.raw", "b/d.RAW", "LICENSE"))]
    assert ignored(paths) == "4 files are not read as images: 2 .raw, 1 .txt, 1 without an ending"
    assert ignored(paths[:1]) == ""


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in ("a.jpg", ".a.jpg", ".git/b.txt", "more/.c", "more/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_in(tmp_path) == [tmp_path / "a.jpg", tmp_path / "more" / "c.png"]


def test_format_that_another_program_would_read_is_not_opened(tmp_path):
    picture = tmp_path / "harmless.png"
    Image.new("RGB", (4, 4)).save(picture, format="EPS")
    with pytest.raises(OSError, match=r"harmless\.png cannot be read as an image: cannot identify"):
        read_image(picture)
