"""Pictures of attention maps."""

import warnings

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from abn.visualize import grid, overlay, task_grid

MAP = torch.tensor([[[0.0, 0.5], [0.5, 1.0]]])


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_overlay_is_rgb_in_the_size_of_the_image():
    picture = overlay(torch.rand(3, 20, 30), MAP)
    assert (picture.mode, picture.size) == ("RGB", (30, 20))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_colours_are_those_of_the_colour_map_on_the_maps_own_scale(value):
    picture = overlay(torch.zeros(3, 4, 4), torch.full((1, 2, 2), value), opacity=1, colormap="viridis")
    expected = np.array(matplotlib.colormaps["viridis"](value)[:3]) * 255
    assert np.abs(array(picture) - expected).max() <= 1


def test_red_stays_red_and_stands_where_it_stood():
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    image[0, 1, 5] = 255  # row 1, column 5
    picture = array(overlay(image, MAP, opacity=0))
    assert picture[1, 5].tolist() == [255, 0, 0]
    assert picture.sum() == 255


def test_the_map_is_not_transposed_or_mirrored():
    attention_map = torch.zeros(1, 2, 3)
    attention_map[0, 0, 2] = 1.0  # top right
    picture = array(overlay(torch.zeros(3, 2, 3), attention_map, opacity=1, colormap="gray"))
    assert picture[..., 0].tolist() == [[0, 0, 255], [0, 0, 0]]


def test_opacity_mixes_image_and_map():
    image = torch.full((3, 2, 2), 200, dtype=torch.uint8)
    picture = array(overlay(image, torch.zeros(2, 2), opacity=0.25, colormap="gray"))  # the map is black
    assert np.abs(picture - 150).max() <= 1


def test_every_kind_of_image_gives_the_same_picture():
    pixels = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    pictures = [
        overlay(pixels, MAP),
        overlay(pixels / 255, MAP),
        overlay(Image.fromarray(pixels.permute(1, 2, 0).numpy()), MAP),
        overlay(normalised, MAP, mean=mean, std=std),
        overlay((pixels / 255).requires_grad_(), MAP.squeeze(0)),
    ]
    for picture in pictures:
        assert np.abs(array(picture) - array(pictures[0])).max() <= 1


def test_grey_image_becomes_rgb():
    assert overlay(torch.rand(1, 8, 8), MAP).mode == "RGB"
    assert overlay(Image.new("L", (8, 8)), MAP).mode == "RGB"


def test_flat_map_looks_flat_unless_rescaled():
    weak = 0.5 + 0.1 * MAP
    plain = array(overlay(torch.zeros(3, 2, 2), weak, opacity=1, colormap="gray"))[..., 0]
    stretched = array(overlay(torch.zeros(3, 2, 2), weak, opacity=1, colormap="gray", rescale=True))[..., 0]
    assert np.abs([plain.min() - 0.5 * 255, plain.max() - 0.6 * 255]).max() <= 1
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_rescaling_a_nearly_constant_map_warns():
    with pytest.warns(UserWarning, match="the map is nearly constant"):
        overlay(torch.rand(3, 4, 4), 0.5 + 1e-4 * MAP, rescale=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlay(torch.rand(3, 4, 4), 0.5 + 1e-4 * MAP)


def test_grid_shows_image_map_and_overlay_in_columns():
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    picture = grid(images, torch.ones(2, 1, 2, 2), panel_size=10, colormap="gray")
    assert picture.size == (2 * 10 + 8, 3 * 10 + 2 * 8)
    pixels = array(picture)[..., 0]
    first, second = 5, 10 + 8 + 5
    assert np.abs(pixels[[5, 23, 41], first] - [0, 255, 128]).max() <= 1  # black, map, half and half
    assert pixels[[5, 23, 41], second].tolist() == [255, 255, 255]


def test_grid_keeps_proportions_and_takes_images_of_several_sizes():
    images = [Image.new("RGB", (40, 20), "black"), torch.zeros(3, 20, 40)]
    picture = array(grid(images, torch.zeros(2, 3, 5), panel_size=40, opacity=0))
    assert picture[20, 20].tolist() == [0, 0, 0]
    assert picture[2, 20].tolist() == [255, 255, 255]  # the margin above the wide image


def test_captions_stand_above_the_columns():
    arguments = (torch.rand(2, 3, 8, 8), torch.rand(2, 1, 2, 2))
    plain, captioned = grid(*arguments), grid(*arguments, captions=["cat", "dog"])
    assert captioned.height > plain.height
    header = array(captioned)[: captioned.height - plain.height]
    assert (header[:, : plain.width // 2] < 128).any()
    assert (header[:, plain.width // 2 :] < 128).any()


NORMALISED = torch.randn(3, 8, 8) * 2


@pytest.mark.parametrize(
    ("image", "attention_map", "arguments", "message"),
    [
        (NORMALISED, MAP, {}, "image has values from .* give the mean and std"),
        (torch.full((3, 8, 8), torch.nan), MAP, {}, "image has values from nan to nan"),
        (torch.rand(8, 8, 3), MAP, {}, r"image has shape \(8, 8, 3\), expected \(C, H, W\)"),
        (torch.rand(2, 3, 8, 8), MAP, {}, r"image has shape \(2, 3, 8, 8\)"),
        (torch.rand(3, 8, 8), MAP, {"mean": [0.5]}, "mean and std belong together"),
        (
            torch.zeros(3, 8, 8, dtype=torch.uint8),
            MAP,
            {"mean": [0.5], "std": [0.5]},
            "normalised float image",
        ),
        (torch.rand(3, 8, 8), MAP[None].expand(2, 1, 2, 2), {}, r"attention_map has shape \(2, 1, 2, 2\)"),
        (torch.rand(3, 8, 8), MAP.expand(3, 2, 2), {}, r"attention_map has shape \(3, 2, 2\)"),
        (torch.rand(3, 8, 8), 3 * MAP, {}, "attention_map has values from 0 to 3, .* rescale=True"),
        (torch.rand(3, 8, 8), MAP * torch.nan, {}, "attention_map has values from nan"),
        (torch.rand(3, 8, 8), MAP * torch.nan, {"rescale": True}, "attention_map has values from nan"),
        (torch.rand(3, 8, 8), MAP, {"opacity": 2}, "opacity is 2, expected 0 to 1"),
        (torch.rand(3, 8, 8), MAP, {"colormap": "jetset"}, "colormap is 'jetset', expected a name"),
    ],
)
def test_what_cannot_be_shown_is_refused(image, attention_map, arguments, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, attention_map, **arguments)


@pytest.mark.parametrize("image", ["cat.png", np.zeros((8, 8, 3)), torch.zeros(3, 8, 8, dtype=torch.int64)])
def test_other_types_of_image_are_refused(image):
    with pytest.raises(TypeError, match=r"expected (a PIL image or a tensor|uint8 or floating point)"):
        overlay(image, MAP)


@pytest.mark.parametrize(("images", "maps", "captions"), [(2, 3, None), (2, 2, ["one"]), (0, 0, None)])
def test_grid_wants_one_map_and_one_caption_per_image(images, maps, captions):
    with pytest.raises(ValueError, match=r"got \{'images': \d.* expected as many of each"):
        grid(torch.rand(images, 3, 8, 8), torch.rand(maps, 1, 2, 2), captions=captions)


# Maps with both signs, and of several tasks


SIGNED = torch.tensor([[-4.0, 0.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        ("positive", [[0, 0], [0.25, 0.5]]),
        ("negative", [[1, 0], [0, 0]]),
        ("both", [[0, 0.5], [0.625, 0.75]]),
    ],
)
def test_parts_of_a_signed_map_are_shares_of_its_largest_magnitude(sign, expected):
    picture = array(overlay(torch.zeros(1, 2, 2), SIGNED, sign=sign, opacity=1, colormap="gray"))
    assert np.abs(picture[..., 0] / 255 - np.array(expected)).max() < 0.01


def test_both_signs_are_blue_and_red_around_white():
    picture = array(overlay(torch.zeros(1, 2, 2), SIGNED, sign="both", opacity=1))
    assert picture[0, 0].tolist() == [0, 0, 255]
    assert picture[0, 1].min() >= 253
    assert picture[1, 1, 0] == 255 > picture[1, 1, 2]


@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
def test_map_of_zeros_has_neither_sign(sign):
    picture = array(overlay(torch.zeros(1, 2, 2), torch.zeros(2, 2), sign=sign, opacity=1, colormap="gray"))
    assert np.abs(picture - (128 if sign == "both" else 0)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sign": "minus"}, r"sign is 'minus' and rescale False, expected one of \('positive', "),
        ({"sign": "both", "rescale": True}, "sign is 'both' and rescale True"),
        ({}, r"values from -4 to 2, expected 0 to 1: .* sign= for a map with both signs"),
    ],
)
def test_signed_map_is_refused_unless_one_says_what_to_show(arguments, message):
    with pytest.raises(ValueError, match=message):
        overlay(torch.zeros(1, 2, 2), SIGNED, **arguments)


def test_task_grid_shows_the_image_and_then_a_labelled_panel_per_task():
    image = torch.zeros(3, 8, 8)
    maps = torch.stack([torch.full((8, 8), value) for value in (0.0, 0.5, 1.0)])
    labels = ["hat", "tie", "a label that is much longer than its panel"]
    picture = array(task_grid(image, maps, labels, columns=2, panel_size=40, opacity=1, colormap="gray"))
    assert picture.shape == (2 * 62 + 8, 2 * 40 + 8, 3)
    panels = [picture[y + 22 : y + 62, x : x + 40] for y in (0, 70) for x in (0, 48)]
    assert [round(panel.mean() / 255, 2) for panel in panels] == [0, 0, 0.5, 1]
    labelled = [picture[y : y + 22, x : x + 40].min() < 128 for y in (0, 70) for x in (0, 48)]
    assert labelled == [False, True, True, True]
    assert picture[:, 40:48].min() == 255  # the long label stays within its panel


def test_signed_maps_of_a_task_grid_share_their_scale():
    maps = torch.stack([torch.full((8, 8), 1.0), torch.full((8, 8), -4.0)])
    arguments = {"opacity": 1, "colormap": "gray", "panel_size": 40}
    picture = array(task_grid(torch.zeros(3, 8, 8), maps, ["hat", "tie"], sign="both", **arguments))
    panels = [picture[22:, 48 * column : 48 * column + 40].mean() / 255 for column in (1, 2)]
    assert panels == pytest.approx([0.625, 0], abs=0.01)


def test_task_grid_takes_what_overlay_takes():
    picture = task_grid(torch.rand(3, 8, 8), torch.randn(2, 4, 4), ["hat", "tie"], panel_size=20, sign="both")
    assert picture.size == (3 * 28 - 8, 42)


@pytest.mark.parametrize(("maps", "labels"), [((2, 4, 4), ["hat"]), ((4, 4), ["hat"]), ((0, 4, 4), [])])
def test_task_grid_needs_a_label_per_map(maps, labels):
    with pytest.raises(ValueError, match=r"expected \(T, h, w\) and a label per task"):
        task_grid(torch.rand(3, 8, 8), torch.rand(maps), labels)
