"""Reports a run: progress, logs, curves and maps."""

import csv
import time
from argparse import Namespace
from datetime import timedelta
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from abn.preprocessing import Preprocessing
from abn.progress import INTERVAL, progress
from abn.saving import replacing
from abn.visualize import grid
from training.data import Data
from training.distributed import Processes

MAPS = 8  # in a picture


class Progress:
    """A bar for one epoch, from a step on: it counts all images, with the figures of the first process."""

    def __init__(self, epoch: int, step: int, steps: int, options: Namespace, processes: Processes) -> None:
        self.processes, self.batch_size = processes, options.batch_size
        self.later = (options.epochs - epoch - 1) * steps * options.batch_size  # images
        self.bar = progress(
            steps * options.batch_size,
            " images",
            desc=f"epoch {epoch + 1}/{options.epochs}",
            initial=step * options.batch_size,
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {rate_fmt}{postfix}",
            disable=not processes.leader,
        )
        self.began = self.shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self) -> bool:
        """Counts a batch. Returns whether it is time to show new figures."""
        self.bar.update(self.batch_size)
        return not self.bar.disable and (
            time.monotonic() - self.shown > INTERVAL or self.bar.n >= self.bar.total
        )

    def show(self, means: dict[str, float]) -> None:
        """Shows losses and accuracies of the branches, memory, and the time left for the whole run."""
        self.shown = time.monotonic()
        losses = [f"{value:.3f}" for name, value in means.items() if name.startswith("loss")]
        accuracies = [f"{100 * value:.1f}" for name, value in means.items() if name.startswith("top1")]
        seconds = (self.shown - self.began) / (self.bar.n - self.bar.initial)  # per image
        left = timedelta(seconds=round(seconds * (self.bar.total - self.bar.n + self.later)))
        self.bar.set_postfix_str(
            f"loss {' + '.join(losses)}, top-1 {' / '.join(accuracies)} %, "
            f"{self.processes.memory() / 2**30:.1f} GiB, {left} left"
        )


class Report:
    """Writes the files about a run: ``log.csv``, ``curves.png``, ``maps/`` and ``tensorboard/``."""

    def __init__(self, options: Namespace, processes: Processes, epoch: int) -> None:
        self.options, self.processes = options, processes
        # Removes what an interrupted run logged after this epoch.
        self.board = SummaryWriter(str(options.output / "tensorboard"), purge_step=epoch + 1)

    def epoch(
        self, history: list[dict[str, Any]], network: nn.Module, data: Data, preprocessing: Preprocessing
    ) -> None:
        """Reports the last epoch."""
        row, directory = history[-1], self.options.output
        print(f"epoch {row['epoch']}: {_part(row, 'train')}; {_part(row, 'validation')}", flush=True)
        for name, value in row.items():
            part, _, measure = name.partition("_")
            tag = f"{part}/{measure}" if part in ("train", "validation") else name
            self.board.add_scalar(tag, value, row["epoch"])
        self.board.flush()
        with replacing(directory / "log.csv") as path, path.open("w", newline="") as file:
            table = csv.DictWriter(file, row)
            table.writeheader()
            table.writerows(history)
        with replacing(directory / "curves.png") as path:
            draw_curves(history).savefig(path, format="png", dpi=120)
        due = row["epoch"] % self.options.maps_every == 0 or row["epoch"] == self.options.epochs
        if due and not self.options.plain:
            (directory / "maps").mkdir(exist_ok=True)
            with replacing(directory / "maps" / f"epoch{row['epoch']:04}.png") as path:
                self._maps(network, data, preprocessing).save(path, format="png")

    def summary(self, history: list[dict[str, Any]]) -> None:
        """Reports the whole run."""
        branch = _branches(history[0])[-1]
        best = max(history, key=lambda row: row[f"validation_top1_{branch}"])
        spent = timedelta(seconds=round(sum(row["seconds"] for row in history)))
        print(f"best epoch: {best['epoch']} of {len(history)}, {_part(best, 'validation')}")
        print(f"training took {spent}; {self.options.output} holds {', '.join(self._files())}")

    def _files(self) -> list[str]:
        return sorted(path.name + "/" * path.is_dir() for path in self.options.output.glob("[!.]*"))

    @torch.no_grad()
    def _maps(self, network: nn.Module, data: Data, preprocessing: Preprocessing) -> Any:
        """Draws where the network looks, always in the same validation images, spread over the classes."""
        chosen = torch.linspace(0, len(data.validation) - 1, min(MAPS, len(data.validation))).long().tolist()
        pictures, labels = zip(*(data.validation[index] for index in chosen), strict=True)
        images = torch.stack([preprocessing(picture) for picture in pictures]).to(self.processes.device)
        output = network(images)
        guesses = output.perception_logits.argmax(dim=1).tolist()
        captions = [
            data.classes[label] if label == guess else f"{data.classes[label]}, not {data.classes[guess]}"
            for label, guess in zip(labels, guesses, strict=True)
        ]
        return grid(
            images,
            output.attention_map.float(),
            captions=captions,
            panel_size=160,
            rescale=bool(output.attention_map.max() > 1),  # maps of SE-ResNets have no bound
            mean=preprocessing.mean,
            std=preprocessing.std,
        )


def _branches(row: dict[str, Any]) -> list[str]:
    return [name.rpartition("_")[2] for name in row if name.startswith("train_loss")]


def _part(row: dict[str, Any], part: str) -> str:
    """Formats ``"validation loss 0.310 + 0.240, top-1 93.2 / 94.0 % (attention / perception)"``."""
    branches = _branches(row)
    losses = " + ".join(f"{row[f'{part}_loss_{branch}']:.3f}" for branch in branches)
    accuracies = " / ".join(f"{100 * row[f'{part}_top1_{branch}']:.1f}" for branch in branches)
    return f"{part} loss {losses}, top-1 {accuracies} % ({' / '.join(branches)})"


def draw_curves(history: list[dict[str, Any]]) -> Figure:
    """Draws loss and error of each branch, in training (dotted) and validation."""
    figure = Figure(figsize=(10, 4))
    epochs = [row["epoch"] for row in history]
    for axes, measure, title in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("loss", "top-1 error, %"), strict=True
    ):
        for color, branch in enumerate(_branches(history[0])):
            for part, style in (("train", ":"), ("validation", "-")):
                values = [row[f"{part}_{measure}_{branch}"] for row in history]
                if measure == "top1":
                    values = [100 * (1 - value) for value in values]
                axes.plot(epochs, values, style, color=f"C{color}", marker=".", label=f"{part}, {branch}")
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure
