"""What is done to an image before a network sees it."""

import json
import types

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights

import abn
from abn import Preprocessing, hub, wrap_backbone
from abn.preprocessing import CIFAR, preprocessing_of, read_image


def picture(width, height, mode="RGB"):
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy()
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (200, 500), (224, 224)])
def test_default_is_torchvisions_for_imagenet(width, height):
    image = picture(width, height)
    expected = ResNet50_Weights.IMAGENET1K_V1.transforms()(image)
    assert torch.allclose(Preprocessing()(image), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "inception_v4", "tf_efficientnetv2_b0.in1k", "dm_nfnet_f0"]
)
def test_backbone_of_timm_brings_timms(name):
    backbone = timm.create_model(name)
    config = timm.data.resolve_model_data_config(backbone)
    expected = timm.data.create_transform(**config)(image := picture(400, 300))
    assert torch.allclose(preprocessing_of(backbone)(image), expected, atol=1e-6)


def test_every_configuration_of_timm_is_understood():
    for name in timm.list_models():
        if (config := timm.models.get_pretrained_cfg(name)) is not None:
            understood = preprocessing_of(types.SimpleNamespace(pretrained_cfg=config.to_dict()))
            assert understood is None or understood.size == config.input_size[1:], name


@pytest.mark.parametrize("size", [(128, 256), (256, 128), (224, 224)])
@pytest.mark.parametrize("crop_mode", ["center", "border", "squash"])
@pytest.mark.parametrize("picture_size", [(512, 256), (300, 400), (100, 90)])
def test_timms_crop_modes_are_timms(size, crop_mode, picture_size):
    backbone = timm.create_model("test_resnet")
    backbone.pretrained_cfg |= {"input_size": (3, *size), "crop_mode": crop_mode, "crop_pct": 0.9}
    config = timm.data.resolve_model_data_config(backbone)
    expected = timm.data.create_transform(**config)(image := picture(*picture_size))
    assert torch.allclose(preprocessing_of(backbone)(image), expected, atol=1e-6)


def test_image_of_other_proportions_is_seen_as_by_timm():
    """A network for images twice as wide as high sees nine tenths of one, and not a quarter."""
    ours = wrap_backbone("timm/resnet18", input_size=(3, 128, 256)).preprocessing
    width, height = ours.view(Image.new("RGB", (512, 256))).size
    assert 0.88 < width * height / (512 * 256) < 0.92
    config = timm.data.resolve_data_config({"input_size": (3, 128, 256)}, model=timm.create_model("resnet18"))
    expected = timm.data.create_transform(**config)(image := picture(512, 256))
    assert torch.allclose(ours(image), expected, atol=1e-6)


def test_border_has_the_colour_that_is_subtracted():
    bordered = Preprocessing((32, 32), 32, crop_mode="border")
    image = Image.new("RGB", (64, 16), "white")
    assert bordered(image)[:, 0].abs().max() < 0.02
    view = bordered.view(image)
    assert (view.size, view.getpixel((0, 0)), view.getpixel((32, 32))) == (
        (64, 64),
        (124, 116, 104),
        (255, 255, 255),
    )


@pytest.mark.parametrize(("resize", "mode"), [(40, "center"), ((40, 50), "squash")])
def test_crop_mode_that_a_saved_network_does_not_tell_is_as_before_there_were_any(resize, mode):
    untold = Preprocessing((32, 32), resize)
    image = picture(60, 50)
    assert untold.crop_mode is None
    assert torch.equal(untold(image), Preprocessing((32, 32), resize, crop_mode=mode)(image))
    assert torch.equal(untold.at((64, 32))(image), untold.at((64, 32)).at((64, 32))(image))


def test_backbone_of_timm_for_other_sizes_and_channels():
    assert wrap_backbone("timm/test_resnet", input_size=96).preprocessing.size == (96, 96)
    assert wrap_backbone("timm/test_resnet", in_chans=1).preprocessing is None


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_pictures_of_all_modes_are_taken_for_rgb(mode):
    assert Preprocessing((8, 8), 10)(picture(20, 30, mode)).shape == (3, 8, 8)


def test_view_is_the_part_that_is_seen():
    image = Image.new("RGB", (400, 300), "black")
    image.paste("white", (125, 75, 275, 225))
    half = Preprocessing((50, 50), 100, mean=(0,) * 3, std=(1,) * 3)
    assert half.view(image).size == (150, 150)
    assert half.view(image).getextrema() == ((255, 255),) * 3
    assert half(image)[:, 1:-1, 1:-1].min() == 1  # but for the seam
    assert Preprocessing((50, 50), (50, 50)).view(image).size == (400, 300)
    assert Preprocessing((50, 50), (100, 100)).view(image).size == (200, 150)


def test_other_size_keeps_the_part_that_is_seen():
    assert Preprocessing().at((448, 448)) == Preprocessing((448, 448), 512)
    assert CIFAR.at((64, 64)).resize == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 224}, "size is 224, expected"),
        ({"size": (0, 5)}, "size is"),
        ({"resize": 0}, "resize is 0, expected pixels"),
        ({"resize": None}, "resize is None, expected pixels"),
        ({"mean": (0.5,)}, "mean is .*three numbers"),
        ({"mean": (123.7, 116.3, 103.5)}, "mean is .*expected 0 to 1: divide mean and std by 255"),
        ({"std": (0.5, 0.5, 0.0)}, "std is .*above 0"),
        ({"std": (0.5, 0.5, float("nan"))}, "std is .*three numbers"),
        ({"size": (224, 10**6)}, "size is .* of 1 to 10000 pixels"),
        ({"resize": 10**6}, "resize is .* of 1 to 10000 pixels"),
        ({"crop_mode": "middle"}, "crop_mode is 'middle', expected center, squash or border"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic', expected"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**arguments)


def test_network_keeps_it_with_the_names_of_its_classes(tmp_path):
    model = abn.abn_resnet18(num_classes=2)
    model.preprocessing = Preprocessing((96, 128), (100, 130), mean=(0.5, 0.5, 0.5))
    model.classes = ("cat", "dog")
    model.save_pretrained(tmp_path)
    loaded = hub.load(tmp_path)
    assert (loaded.preprocessing, loaded.classes) == (model.preprocessing, model.classes)
    assert hub.load(tmp_path, num_classes=2).classes == ("cat", "dog")
    assert hub.load(tmp_path, num_classes=5).classes is None  # they are others
    assert hub.load(tmp_path, num_classes=5).preprocessing == model.preprocessing


def test_official_weights_bring_the_official_codes(tmp_path):
    network = abn.abn_cifar_resnet(8)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert hub.load(tmp_path / "weights.pth").preprocessing == CIFAR
    torch.save(abn.abn_resnet18().state_dict(), tmp_path / "weights.pth")
    loaded = hub.load(tmp_path / "weights.pth")
    assert loaded.preprocessing == Preprocessing()
    assert loaded.classes[281] == "tabby"


def test_published_weights_bring_their_authors(tmp_path, monkeypatch):
    torch.save(abn.abn_resnet18(num_classes=200).state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(hub.sources, "cached", lambda *_, **__: tmp_path / "weights.pth")
    assert hub.load("abn_resnet18_cub").preprocessing == Preprocessing(
        resize=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


def test_picture_is_turned_upright(tmp_path):
    image = Image.new("RGB", (20, 10), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (10, 20)
    assert upright.getpixel((9, 0)) == (255, 255, 255)


def test_sixteen_bits_become_eight_and_are_turned_too(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "deep.png", exif=exif)
    assert [read_image(tmp_path / "deep.png").getpixel((0, y))[0] for y in range(4)] == [0, 1, 128, 255]


def test_real_numbers_and_broken_files_are_named(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(OSError, match=r"real.tiff cannot be read as an image: pixels are real numbers"):
        read_image(tmp_path / "real.tiff")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"broken.jpg cannot be read as an image"):
        read_image(tmp_path / "broken.jpg")


@pytest.mark.parametrize("classes", [5, [1, 2], "ab"])
def test_classes_that_are_no_names_are_refused(tmp_path, classes):
    abn.abn_cifar_resnet(8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"classes": classes}))
    with pytest.raises(ValueError, match=r"classes are .*, expected a list of names"):
        hub.load(tmp_path)
