"""``python -m abn explain``: pictures of where a network looks."""

import json
import subprocess
import sys
from urllib.error import URLError

import pytest
import torch
import torchvision
from PIL import Image

import abn
from abn.__main__ import main
from abn.report.folder import explain


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a small network."""
    torch.manual_seed(0)
    network = abn.abn_cifar_resnet(8, num_classes=3)
    network.preprocessing = abn.Preprocessing((32, 32), 36)
    network.classes = ("ant", "bee", "cat")
    directory = tmp_path_factory.mktemp("model")
    network.save_pretrained(directory)
    return directory


@pytest.fixture
def images(tmp_path):
    """A folder of seven images in several formats and folders, and a text."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.jpg", "c.bmp", "d.gif", "e.webp", "more/a.png", "more/a.tiff")):
        Image.new("RGB", (40 + index, 60), (30 * index, 0, 0)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["abn", "explain", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_every_image_gets_a_picture(tmp_path, monkeypatch, capsys, images, model, batch_size):
    words = ["--model", model, "--out", tmp_path / "out", "--batch-size", batch_size]
    assert call(monkeypatch, images, *words) == 0
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert written == {
        "a_map.png", "b_map.png", "c_map.png", "d_map.png", "e_map.png",
        "more/a.png_map.png", "more/a.tiff_map.png",
    }  # fmt: skip
    assert "images skipped: 0" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "a_map.png") as picture:
        assert picture.size == (2 * 384 + 8, 384 + 3 * 24)  # image, overlay, and a line per class


def test_picture_holds_what_the_network_sees_and_its_map_over_it(tmp_path, images, model):
    network = abn.hub.load(model)
    assert explain(network, images / "more" / "a.png", tmp_path) == {}
    image = Image.open(images / "more" / "a.png")
    attention_map = network(network.preprocessing(image)[None]).attention_map[0]
    panel = network.preprocessing.view(image).resize((384, 384))
    expected = abn.visualize.overlay(panel, attention_map)
    with Image.open(tmp_path / "a_map.png") as picture:
        left, right = picture.crop((0, 0, 384, 384)), picture.crop((392, 0, 776, 384))
    assert left.getextrema() == panel.getextrema()
    assert right.tobytes() == expected.tobytes()


def test_broken_image_is_skipped_by_name_and_the_exit_code_tells(
    tmp_path, monkeypatch, capsys, images, model
):
    (images / "b.jpg").write_bytes(b"no image")
    (images / "c.bmp").write_bytes((images / "c.bmp").read_bytes()[:100])
    assert call(monkeypatch, images, "--model", model, "--out", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert f"skipped: {images / 'b.jpg'} cannot be read as an image" in shown.err
    assert f"skipped: {images / 'c.bmp'} cannot be read as an image" in shown.err
    assert "images skipped: 2" in shown.out
    assert len(list((tmp_path / "out").rglob("*.png"))) == 5


@pytest.mark.parametrize("size", [(1, 2), (1, 1000), (1000, 1), (1, 1)])
def test_thin_image_gets_a_picture_too(tmp_path, size, model):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    assert explain(abn.hub.load(model), tmp_path / "thin.png", tmp_path / "out") == {}
    with Image.open(tmp_path / "out" / "thin_map.png") as picture:
        assert picture.width == 2 * 384 + 8  # room for the names of the classes


def test_picture_that_cannot_be_written_is_skipped(tmp_path, images, model):
    (tmp_path / "out" / "a_map.png").mkdir(parents=True)
    skipped = explain(abn.hub.load(model), images, tmp_path / "out")
    assert list(skipped) == [images / "a.png"]
    assert len([path for path in (tmp_path / "out").rglob("*.png") if path.is_file()]) == 6


def test_pictures_beside_the_folder_hide_nothing(tmp_path, monkeypatch, images, model):
    (images / "data.h5").write_text("no image")
    (images / ".hidden").mkdir()
    (images / ".hidden" / "a.png").write_text("no image")
    assert call(monkeypatch, images, "--model", model, "--out", images.parent) == 0
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_pictures_within_the_folder_are_not_explained_again(tmp_path, monkeypatch, images, model):
    for _ in range(2):
        assert call(monkeypatch, images, "--model", model, "--out", images / "maps") == 0
    assert len(list((images / "maps").rglob("*.png"))) == 7


def test_unbounded_map_and_unknown_preprocessing(tmp_path, images, caplog):
    network = abn.wrap_backbone("torchvision/resnet18", num_classes=8)
    network.attention_branch = abn.abn_se_resnet18(num_classes=8).attention_branch  # Σ log(1 + r)
    with torch.no_grad():
        network.attention_branch.response_norm.bias.fill_(5)
    assert explain(network, images / "a.png", tmp_path) == {}
    assert "does not tell how its images are prepared" in caplog.text
    with Image.open(tmp_path / "a_map.png") as picture:
        assert picture.height == 384 + 5 * 24


@pytest.mark.parametrize(
    ("arguments", "sign"),
    [
        ({"tasks": 2}, None),
        ({"tasks": 2, "num_classes": 3}, None),
        ({"tasks": 2, "map": "response"}, "both"),
        ({"num_classes": 1}, None),  # a single value is no probability
    ],
)
def test_each_task_has_its_map_and_its_value(arguments, sign, tmp_path, images):
    model = abn.wrap_backbone("timm/test_resnet", input_size=64, **arguments).eval()
    model.preprocessing = abn.Preprocessing((64, 64), 64)
    model.classes = ("hat", "tie") if "tasks" in arguments else None
    assert explain(model, images / "a.png", tmp_path) == {}

    image = abn.preprocessing.read_image(images / "a.png")
    with torch.no_grad():
        output = model(model.preprocessing(image)[None])
    (logits,) = output.perception_logits
    if logits.ndim == 1:
        values = [f"{value:.3g}" for value in logits.tolist()]
    else:
        shares, classes = logits.softmax(0).max(0)
        values = [f"{k} ({100 * share:.0f} %)" for k, share in zip(classes, shares, strict=True)]
    names = model.classes or ["task 0"]
    labels = [f"{value}  {name}" for name, value in zip(names, values, strict=True)]
    maps = output.attention_map[0]
    view = model.preprocessing.view(image, longest=384)
    expected = abn.visualize.task_grid(view, maps, labels, sign=sign)
    with Image.open(tmp_path / "a_map.png") as picture:
        assert picture.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("source", "model_name", "more", "message"),
    [
        ("nowhere", None, [], "no image and no folder"),
        (".", None, [], "no image in"),
        ("out", None, [], "the folder of the images"),
        ("file.txt", None, ["--device", "gpu"], "--device is 'gpu', which is not available on this machine"),
        ("file.txt", "no_such_model", [], "there is no file no_such_model"),
        ("file.txt", None, ["--batch-size", "0"], "batch_size is 0"),
        ("file.txt", None, ["--rescale", "--sign", "both"], "--rescale and --sign exclude each other"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, monkeypatch, capsys, model, source, model_name, more, message):
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "out").mkdir()
    words = [tmp_path / source, "--model", model_name or model, "--out", tmp_path / "out", *more]
    assert message in call(monkeypatch, *words)


@pytest.mark.slow
def test_command_line_explains(tmp_path, images, model):
    command = [
        sys.executable,
        "-m",
        "abn",
        "explain",
        str(images),
        "--model",
        str(model),
        "--out",
        str(tmp_path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "images skipped: 0" in result.stdout


@pytest.fixture
def backbone_weights(tmp_path):
    """A file of torchvision's, under its own name there, which tells the classes."""
    file = tmp_path / "mobilenet_v2-b0353104.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), file)
    return file


def test_pretrained_classifier_explains_itself_without_training(
    tmp_path, monkeypatch, images, backbone_weights
):
    words = ["--model", "torchvision/mobilenet_v2", "--backbone-weights", backbone_weights]
    assert call(monkeypatch, images / "a.png", *words, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a_map.png").is_file()


@pytest.mark.parametrize("asked", ["tabby", "TABBY", "281"])
def test_evidence_for_a_class_is_shown_by_name_or_number(
    asked, tmp_path, monkeypatch, images, backbone_weights
):
    shown = []
    monkeypatch.setattr(
        abn.ABN,
        "class_map",
        lambda self, images, label: shown.append(label) or torch.ones(len(images), 1, 7, 7),
    )
    words = ["--model", "torchvision/mobilenet_v2", "--backbone-weights", backbone_weights, "--class", asked]
    assert call(monkeypatch, images / "a.png", *words, "--out", tmp_path / "out") == 0
    assert set(shown) == {281}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "tabbi"], "--class is 'tabbi', expected the name or number of a class; similar: tabby"),
        (["--class", "1000"], "classes are 1000, expected one number from 0 to 999"),
    ],
)
def test_class_that_is_none_is_refused(words, message, tmp_path, monkeypatch, images, backbone_weights):
    model = ["--model", "torchvision/mobilenet_v2", "--backbone-weights", backbone_weights]
    assert message in call(monkeypatch, images / "a.png", *model, *words, "--out", tmp_path / "out")


def test_larger_images_and_earlier_splits_make_finer_maps(tmp_path, monkeypatch, images, backbone_weights):
    model = ["--model", "torchvision/mobilenet_v2", "--backbone-weights", backbone_weights]
    sizes = []
    for words in ([], ["--image-size", 320], ["--split", "features.6"]):
        out = tmp_path / f"out{len(sizes)}"
        assert call(monkeypatch, images / "a.png", *model, *words, "--out", out) == 0
        sizes.append(json.loads((out / ".report.jsonl").read_text())["entry"]["size"])
    assert sizes == [[1, 14, 14], [1, 20, 20], [1, 28, 28]]
    message = call(monkeypatch, images / "a.png", *model, "--split", "nowhere", "--out", tmp_path / "out")
    assert "cannot be cut at split='nowhere'" in message


@pytest.mark.parametrize("words", [["--image-size", 320], ["--split", "layer3"]])
def test_options_of_a_backbone_belong_to_a_backbone(tmp_path, monkeypatch, images, model, words):
    message = call(monkeypatch, images, "--model", model, *words, "--out", tmp_path / "out")
    assert f"{words[0]} is for --model timm/... or torchvision/..." in message


def test_weights_that_cannot_be_fetched_can_be_given(tmp_path, monkeypatch, images):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("abn.__main__.wrap_backbone", unreachable)
    message = call(monkeypatch, images, "--model", "torchvision/resnet18", "--out", tmp_path / "out")
    assert "gives no weights for torchvision/resnet18: <urlopen error" in message
    assert "--backbone-weights FILE" in message


def test_weights_of_a_backbone_belong_to_a_backbone(tmp_path, monkeypatch, images, model):
    words = ["--model", model, "--backbone-weights", model / "model.safetensors", "--out", tmp_path / "out"]
    assert "--backbone-weights is for --model timm/... or torchvision/..." in call(
        monkeypatch, images, *words
    )


def test_files_that_are_no_images_are_counted(tmp_path, images, model, caplog):
    (images / "more" / "1.raw").write_bytes(b"of a camera")
    explain(abn.hub.load(model), images, tmp_path / "out")
    assert f"{images}: 2 files are not read as images: 1 .raw, 1 .txt" in caplog.text


def test_interruption_ends_in_a_line(tmp_path, monkeypatch, capsys, images, model):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("abn.__main__._network", interrupted)
    assert call(monkeypatch, images, "--model", model, "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err == "abn: interrupted\n"
