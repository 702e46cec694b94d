"""Measures how soon the page for edited maps answers a stroke, and draws it; writes docs/editor.md.

    pip install ".[photographs,test]"
    apt-get install chromium tuxpaint-stamps-default mate-backgrounds
    python examples/experiments editor

The picture shows the misled network of the experiment "editing": its maps lie on the background. Ten minutes
on two CPU cores. Measurements that are complete are not made again.
"""

import platform
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import timm
import torch
import torchvision
from PIL import Image
from playwright.sync_api import Page
from torch import Tensor, nn

from abn import ABN, Preprocessing, wrap_backbone
from abn.editor.session import Session
from experiments.common.browser import browser, serving
from experiments.common.runs import logged, options, write_text
from experiments.common.tables import table
from experiments.editing import main as editing
from experiments.tasks.betrayed_cutouts import BETRAYED
from experiments.tasks.images import Task

NETWORKS = {
    "EfficientNet-B0": lambda: timm.create_model("efficientnet_b0"),
    "ResNet-50": torchvision.models.resnet50,
    "ConvNeXt-Tiny": lambda: timm.create_model("convnext_tiny"),
}
"""Backbones. Their weights do not matter for the time."""
IMAGES, STROKES = 5, 8
"""Number of images, and of strokes on each."""
SHOWN = 80
"""Number of images in the folder of the picture."""
WATCH = """() => {
    window.answered = [];
    let ended = null;
    document.querySelector("#canvas").addEventListener("pointerup", () => { ended = performance.now(); });
    const rows = document.querySelector("#rows");
    new MutationObserver(() => {
        if (rows.getAttribute("aria-busy") !== "false" || ended === null) return;
        window.answered.push(performance.now() - ended);
        ended = null;
    }).observe(rows, { attributes: true, attributeFilter: ["aria-busy"] });
}"""
"""Measures in the page, for each stroke, the milliseconds from its end to the last change of the bars."""


def answer_times(build: Callable[[], nn.Module]) -> dict[str, list[float]]:
    """Milliseconds to open each image, and from the end of each stroke to the answer."""
    model = wrap_backbone(build()).eval()
    model.preprocessing = Preprocessing()
    opened = []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        for number in range(IMAGES):
            pixels = torch.randint(256, (480, 640, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(images / f"{number}.jpg")
        session = Session(model, images, Path(folder, "edits"), name="")
        with serving(session) as address, browser() as chromium:
            page = chromium.new_page()
            page.goto(address)
            answer(page)
            page.get_by_text("images edited").wait_for()
            page.evaluate(WATCH)
            for number in range(IMAGES):
                begin = page.evaluate("performance.now()")
                page.locator("#strip button").nth(number).click()
                answer(page)
                opened.append(page.evaluate("performance.now()") - begin)
                for stroke in range(STROKES):
                    place = (stroke + 1) / (STROKES + 1)
                    drag(page, (0.1, place), (0.9, 1 - place))
            answered = page.evaluate("answered")
    if len(answered) != IMAGES * STROKES:
        raise RuntimeError(f"{IMAGES * STROKES} strokes have {len(answered)} answers")
    return {"opened": opened, "answered": answered}


def answer(page: Page) -> None:
    """Waits until the bars show the answer to the last question."""
    page.wait_for_selector("#rows[aria-busy=false] li", timeout=60_000)


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws a stroke between two places, in shares of the canvas, at a hand's speed. Waits for the bars."""
    box = page.locator("#canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    for step in range(1, 21):
        share = step / 20
        page.mouse.move(*((1 - share) * a + share * b for a, b in zip(*places, strict=True)))
        page.wait_for_timeout(20)
    page.mouse.up()
    answer(page)


def draw(path: Path) -> None:
    """Draws the page: a mistake of the misled network, after its map was moved to the object by hand."""
    task = editing.task_of(BETRAYED)
    model = misled_network(task)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "val")
        for number in torch.linspace(0, len(task.test) - 1, SHOWN).long().tolist():
            file = images / task.classes[int(task.test.labels[number])] / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(task.test.pixels[number].permute(1, 2, 0).numpy()).save(file)
        session = Session(model, images, Path(folder, "edits"), name="misled")
        with serving(session) as address, browser() as chromium:
            page = chromium.new_page(viewport={"width": 1280, "height": 860})
            page.goto(address)
            page.get_by_text("images edited").wait_for(timeout=120_000)
            page.get_by_label("Sort by").select_option("mistakes first")
            page.locator("#strip button").first.click()
            answer(page)
            name = page.locator("#strip .file").first.text_content()
            page.keyboard.press("Delete")
            paint(page, task.test.masks[int(Path(name).stem)])
            page.keyboard.press("Control+s")
            page.get_by_text("Saved:").wait_for()
            page.mouse.move(0, 0)
            page.screenshot(path=path)


def paint(page: Page, mask: Tensor) -> None:
    """Paints over an object (H, W), from left to right, row by row."""
    height, width = mask.shape
    for y in range(height // 16, height, height // 8):
        columns = mask[y].nonzero()
        if len(columns):
            drag(page, (columns.min().item() / width, y / height), (columns.max().item() / width, y / height))


def misled_network(task: Task) -> ABN:
    """The network that the experiment "editing" corrects, of its first seed."""
    torch.manual_seed(0)
    size = editing.SIZE
    model = wrap_backbone(editing.efficientnet_lite(0), num_classes=len(task.classes), input_size=size)
    editing.fit(model, task, 0, editing.EPOCHS, editing.LEARNING_RATE)
    model.preprocessing = Preprocessing(
        (size, size), (size, size), mean=(task.mean,) * 3, std=(task.std,) * 3
    )
    model.classes = task.classes
    return model


def times_table(times: dict[str, dict[str, list[float]]]) -> str:
    """Median and worst time of each network."""
    rows = [["network", "open an image", "stroke to answer, median", "worst"]]
    for name, measured in times.items():
        opened, answered = measured["opened"], measured["answered"]
        values = statistics.median(opened), statistics.median(answered), max(answered)
        rows.append([name, *(f"{value:.0f} ms" for value in values)])
    return table(rows)


def page_text(times: dict[str, dict[str, list[float]]]) -> str:
    """Returns the text of docs/editor.md."""
    libraries = [f"{name} {version(name)}" for name in ("torch", "starlette", "uvicorn")]
    return (
        Path(__file__)
        .with_name("page.md")
        .read_text(encoding="utf-8")
        .format(
            versions=", ".join([*libraries, f"Python {platform.python_version()}", platform.machine()]),
            strokes=IMAGES * STROKES,
            times=times_table(times),
        )
    )


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/editor"), budget=False)
    directory = arguments.directory
    times = {
        name: logged(directory / f"{name}.json", partial(answer_times, build))
        for name, build in NETWORKS.items()
    }
    if not (directory / "editor.png").exists():
        draw(directory / "editor.png")
    write_text(arguments.output / "editor.md", page_text(times))
    shutil.copyfile(directory / "editor.png", arguments.output / "editor.png")
