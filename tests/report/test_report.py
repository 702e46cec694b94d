"""The report of ``python -m abn explain``: the table, the page, and going on after an interruption."""

import csv
import os
import sys

import pytest
import torch
from experiments.common.browser import browser
from pages import needs_chromium, small_classifier, write_photographs
from PIL import Image

from abn import Preprocessing, wrap_backbone
from abn.__main__ import main
from abn.report import folder
from abn.report.folder import explain


@pytest.fixture
def model():
    return small_classifier(8)


@pytest.fixture
def images(tmp_path):
    """Photographs in folders that name their class, in one that does not, and a broken one."""
    return write_photographs(tmp_path / "images", "cat/0.png", "cat/0.jpg", "dog/0.png", "unknown/0.png")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def rows(out):
    with (out / "report.csv").open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


@pytest.fixture
def seen(monkeypatch):
    """Number of images that the network has seen."""
    counts = []
    maps = folder._Run._maps
    monkeypatch.setattr(
        folder._Run,
        "_maps",  # a blank image is a check
        lambda self, images: (counts.append(int(images.flatten(1).any(1).sum())), maps(self, images))[1],
    )
    return counts


@torch.no_grad()
def test_table_holds_what_the_network_says_of_each_image(model, images, out):
    skipped = explain(model, images, out)
    assert list(skipped) == [images / "z.png"]
    table = rows(out)
    assert list(table) == ["cat/0.jpg", "cat/0.png", "dog/0.png", "unknown/0.png", "z.png"]
    for name, row in table.items():
        if name == "z.png":
            assert "cannot be read" in row["error"]
            continue
        with Image.open(images / name) as image:
            output = model(model.preprocessing(image)[None])
        shares, order = output.perception_logits[0].softmax(dim=0).topk(5)
        assert [row[f"class_{rank}"] for rank in range(1, 6)] == [model.classes[i] for i in order]
        probabilities = [float(row[f"probability_{rank}"]) for rank in range(1, 6)]
        assert probabilities == pytest.approx(shares.tolist(), abs=1e-5)
        label = name.split("/")[0]
        assert row["label"] == ("" if label == "unknown" else label)
        assert row["correct"] == ("" if label == "unknown" else str(row["prediction"] == label))
        (values,) = output.attention_map[0]
        assert float(row["map_mean"]) == pytest.approx(values.mean().item(), abs=1e-5)
        assert float(row["map_area"]) == pytest.approx((values > values.max() / 2).float().mean().item())
        peak = int(float(row["peak_y"]) * 16), int(float(row["peak_x"]) * 16)
        assert values[peak] == values.max()


def test_pictures_are_named_after_their_images(model, images, out):
    explain(model, images, out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    # Two images named alike up to their ending keep it.
    assert names == {"cat/0.png_map.png", "cat/0.jpg_map.png", "dog/0_map.png", "unknown/0_map.png"}


def test_pictures_never_replace_images(model, images):
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    explain(model, images / "cat", images)
    explain(model, images / "dog/0.png", images / "dog")
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_done_is_not_done_again(model, images, out, seen):
    explain(model, images, out)
    table = (out / "report.csv").read_text()
    explain(model, images, out)
    assert sum(seen) == 4
    assert (out / "report.csv").read_text() == table
    os.utime(images / "dog/0.png", (0, 0))  # it was changed
    (out / "cat/0.png_map.png").unlink()
    explain(model, images, out)
    assert sum(seen) == 6
    assert (out / "cat/0.png_map.png").is_file()
    explain(model, images, out, of_class=2)  # other maps
    with torch.no_grad():
        next(model.parameters()).add_(0.1)  # another network
    explain(model, images, out, of_class=2)
    assert sum(seen) == 14


def test_interrupted_run_goes_on(model, images, out, seen, monkeypatch):
    draw = folder.draw
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(folder, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain(model, images, out, batch_size=1)
    with (out / ".report.jsonl").open("a") as file:
        file.write('{"image": "cut sho')  # killed while it wrote
    explain(model, images, out, batch_size=1)
    assert sum(seen) == 3 + 2
    assert len(rows(out)) == 5
    assert len(list(out.rglob("*_map.png"))) == 4


def test_pictures_of_the_least_sure(model, images, out):
    explain(model, images, out, top=2)
    sure = {name: float(row["probability_1"]) for name, row in rows(out).items() if row["probability_1"]}
    least = sorted(sure, key=sure.get)[:2]
    pictures = sorted(path.relative_to(out).as_posix() for path in out.rglob("*_map.png"))
    assert len(sure) == 4
    assert pictures == sorted(folder._pictures_of(list(sure))[name] for name in least)


def test_another_kind_of_map_or_mechanism_is_another_run(model, images, out, seen):
    explain(model, images, out)
    model.attention_branch.map = "evidence"
    explain(model, images, out)
    model.perception_branch.mechanism = "multiplicative"
    explain(model, images, out)
    assert sum(seen) == 12


def test_pictures_and_report_are_of_one_run(model, images, out):
    explain(model, images, out)
    before = (out / "dog/0_map.png").read_bytes()
    with torch.no_grad():
        model.attention_branch.classifier.weight.neg_()
    explain(model, images, out, top=1)
    assert len(list(out.rglob("*_map.png"))) == 1
    explain(model, images, out)
    assert (out / "dog/0_map.png").read_bytes() != before
    assert len(list(out.rglob("*_map.png"))) == 4


def test_pictures_follow_their_images(model, images, out):
    explain(model, images, out)
    (images / "cat/0.png").unlink()
    explain(model, images, out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert names == {"cat/0_map.png", "dog/0_map.png", "unknown/0_map.png"}
    with Image.open(out / "cat/0_map.png") as picture, Image.open(images / "cat/0.jpg") as image:
        view = model.preprocessing.view(image, longest=384)
        assert picture.crop((0, 0, *view.size)).tobytes() == view.tobytes()


def test_no_two_images_share_a_picture():
    names = ["a.png", "a.jpg", "a.png.bmp", "b/a.png", "c.d.png"]
    pictures = folder._pictures_of(names)
    assert len(set(pictures.values())) == 5
    assert pictures["c.d.png"] == "c.d_map.png"


def test_files_of_others_are_kept(model, images, out):
    out.mkdir()
    (out / "report.csv").write_text("precious")
    with pytest.raises(ValueError, match=r"report\.csv exists, and is not from a run before"):
        explain(model, images, out)
    (out / "report.csv").unlink()
    (out / "dog").mkdir()
    (out / "dog/0_map.png").write_text("precious")
    with pytest.raises(ValueError, match=r"0_map\.png exists, and is not from a run before"):
        explain(model, images, out)
    assert (out / "dog/0_map.png").read_text() == "precious"


@pytest.mark.parametrize(
    "line", ["123", '{"run": 1}', '{"run": "x", "entry": {"picture": null, "new": 1}}', "\udcff"]
)
def test_journal_of_another_version_is_passed_over(model, images, out, line):
    explain(model, images, out)
    run = (out / ".report.jsonl").read_text().split('"')[3]
    with (out / ".report.jsonl").open("a", errors="surrogateescape") as file:
        file.write(line.replace('"x"', f'"{run}"') + "\n")
    explain(model, images, out)
    assert len(rows(out)) == 5


def test_journal_removes_nothing_outside_its_folder(model, images, out):
    explain(model, images, out)
    precious = out.parent / "precious.png"
    precious.write_text("precious")
    text = (out / ".report.jsonl").read_text()
    (out / ".report.jsonl").write_text(text.replace("dog/0_map.png", "../precious.png"))
    (out / "dog/0_map.png").unlink()
    explain(model, images, out)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"top": 0}, {"of_class": 99}, {"method": "cam"}])
def test_bad_options_are_refused_before_anything_is_written(model, images, out, options):
    with pytest.raises(ValueError, match="expected"):
        explain(model, images, out, **options)
    assert not out.exists()


def test_run_that_is_refused_spoils_nothing(model, images, out, seen):
    explain(model, images, out)
    with pytest.raises(ValueError, match="classes are 99"):
        explain(model, images, out, of_class=99)
    explain(model, images, out)
    assert sum(seen) == 4


def test_answer_that_is_no_number_is_refused(model, images, out):
    with torch.no_grad():
        next(model.perception_branch.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="is not a number: did its training diverge"):
        explain(model, images, out)


@pytest.mark.parametrize("classes", [None, 3])
def test_tasks_of_any_name_have_columns_of_their_own(images, out, classes):
    model = wrap_backbone("timm/test_resnet", tasks=4, num_classes=classes).eval()
    model.preprocessing = Preprocessing((64, 64), 64)
    model.classes = ("image", "error", "smile", "smile")
    explain(model, images, out)
    with (out / "report.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert len(set(head)) == len(head) == len(lines[0])
    with torch.no_grad(), Image.open(images / "cat/0.jpg") as image:
        logits = model(model.preprocessing(image)[None]).perception_logits[0]
    cells = dict(zip(head, lines[0], strict=True))
    assert cells["image"] == "cat/0.jpg"
    if classes is None:
        assert float(cells["error (task 1)"]) == pytest.approx(logits[1].item(), abs=1e-5)
    else:
        assert int(cells["smile (task 3): class"]) == int(logits[:, 3].argmax())


def test_tasks_have_their_columns(images, out):
    model = wrap_backbone("timm/test_resnet", tasks=2).eval()
    model.preprocessing, model.classes = Preprocessing((64, 64), 64), ("smiles", "glasses")
    explain(model, images, out)
    table = rows(out)
    with torch.no_grad(), Image.open(images / "dog/0.png") as image:
        values = model(model.preprocessing(image)[None]).perception_logits[0]
    assert float(table["dog/0.png"]["smiles"]) == pytest.approx(values[0].item(), abs=1e-5)
    assert float(table["dog/0.png"]["glasses"]) == pytest.approx(values[1].item(), abs=1e-5)
    with pytest.raises(ValueError, match="method and top are for networks of classes"):
        explain(model, images, out, top=2)
    with pytest.raises(ValueError, match="method and top are for networks of classes"):
        explain(model, images, out, method="gradcam")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", "0"], "top is 0, expected a number of at least 1"),
        (["--compare", "gradcam"], "pip install torchcam"),
    ],
)
def test_what_cannot_work_is_refused(model, images, out, tmp_path, monkeypatch, words, message):
    model.save_pretrained(tmp_path / "model")
    for library in ("torchcam.methods", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, library, None)
    arguments = ["abn", "explain", images, "--model", tmp_path / "model", "--out", out, *words]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit, match=message):
        main()


@needs_chromium
def test_page_filters_and_sorts_and_runs_no_name(model, images, out):
    nasty = images / "cat" / "<img src=x onerror=document.title=1>.png"
    Image.new("RGB", (64, 48)).save(nasty)
    explain(model, images, out)
    table = rows(out)
    with browser() as chromium:
        page = chromium.new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((out / "report.html").as_uri())
        assert page.title() == "images: where the network looks"
        assert page.locator("figure").count() == 6
        page.wait_for_function(
            "() => [...document.querySelectorAll('canvas')].every(({width}) => width > 16)"
        )
        page.locator("#which").select_option("mistakes")
        mistakes = [name for name, row in table.items() if row["correct"] == "False"]
        assert page.locator("figure strong").all_text_contents() == mistakes
        page.locator("#which").select_option("all images")
        page.locator("#order").select_option("least confident")
        sure = {name: float(row["probability_1"] or "inf") for name, row in table.items()}
        assert page.locator("figure strong").all_text_contents() == sorted(sure, key=sure.get)
        page.locator("#search").fill("DOG")
        assert page.locator("figure strong").all_text_contents() == ["dog/0.png"]
        page.locator("#search").fill("")
        page.locator("#confusion summary").click()
        cell = page.locator("#matrix button").first
        count = int(cell.text_content())
        cell.click()
        assert page.locator("figure").count() == count
        assert page.locator("canvas").first.is_visible()
        page.locator("#maps").uncheck()
        assert not page.locator("canvas").first.is_visible()
        assert page.title() == "images: where the network looks"
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
