"""Trains an image classifier with an attention branch, on one machine or many, and shows where it looks.

    python examples/train.py                                            # digits among clutter
    python examples/train.py --data photos --model timm/resnet50 --model-arguments pretrained=true
    python examples/train.py --recipe examples/recipes/cifar100_resnet110.yaml
    torchrun --nproc-per-node 8 examples/train.py --recipe examples/recipes/imagenet_resnet50.yaml

Ctrl-C saves the state and ends the run; the same command with --resume goes on. See docs/training.md.
"""

import math
import os
import sys
import time
from argparse import Namespace
from typing import Any

import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from training.checkpoints import alone, load_state, save_state
from training.checks import check_options, check_room, check_same, comparable, complete
from training.data import TrainingBatches, fetch, find_data, training_loader, validation_loader
from training.distributed import Processes
from training.edits import create_loss, training_images
from training.measures import Totals
from training.networks import (
    checkpoint_activations,
    create_network,
    holds_weights_alone,
    load_weights,
    logits_of,
    plain_network,
    save_network,
)
from training.optimization import create_criterion, create_optimizer, create_schedule
from training.options import read_options
from training.randomness import seed_everything
from training.report import Progress, Report
from training.stop import Stopped, StopRequest


class Trainer:
    """Holds a network, its data, and everything that changes in a run.

    Random numbers and the learning rate depend only on epoch and step, so that no state of theirs has to be
    saved.
    """

    def __init__(self, options: Namespace, processes: Processes, stop: StopRequest) -> None:
        self.options, self.processes, self.stop = options, processes, stop
        self.data = find_data(options.data, options.root, options.uncropped, processes)
        check_options(options, self.data, processes)
        seed_everything("weights", options.seed)
        network = create_network(options, self.data)
        self.preprocessing = network.preprocessing
        self.branches = ["plain"] if options.plain else ["attention", "perception"]
        self.model = (plain_network(network) if options.plain else network).to(processes.device)
        if options.sync_batchnorm:
            self.model = processes.synchronise_batch_norms(self.model)
        if options.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.ema = None if options.ema is None else ModelEmaV3(self.model, decay=options.ema, use_warmup=True)
        self.validation = validation_loader(self.data, self.preprocessing, options, processes)

        self.optimizer = create_optimizer(self.model, options)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=options.amp == "float16")
        self.batches = TrainingBatches(len(self.data.train), options.batch_size, options.seed, processes)
        self.schedule = create_schedule(self.optimizer, options, len(self.batches))
        self.criterion = create_criterion(options, self.data.labels).to(processes.device)
        self.loss = create_loss(self.criterion, options)
        classes = len(self.data.classes)
        self.mixup = Mixup(options.mixup, label_smoothing=0, num_classes=classes) if options.mixup else None

        self.epoch = self.step = 0  # epochs done, and batches done of the next one
        self.totals = Totals(self.branches)  # over these batches
        self.best = -1.0  # accuracy on the validation images
        self.history: list[dict[str, Any]] = []  # figures of each epoch

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved."""
        return self.model if self.ema is None else self.ema.module

    def train(self) -> None:
        """Trains to the last epoch, from where the last run stopped."""
        options, processes = self.options, self.processes
        self.restore()
        if self.epoch < options.epochs:
            check_room(self.model, options)
        images = training_images(self.data, self.preprocessing, options)
        loader = training_loader(images, options, self.batches)
        if options.activation_checkpointing:
            checkpoint_activations(self.model)
        forward = processes.data_parallel(self.model)
        if options.compile:
            forward = torch.compile(forward)
        report = Report(options, processes, self.epoch) if processes.leader else None
        while self.epoch < options.epochs:
            try:
                trained = self.train_epoch(forward, loader)
                measured = self.evaluate()
            except Stopped as stopped:
                self.save()
                resume = "the state is saved, the same command with --resume goes on from here"
                raise Stopped(f"{stopped}; {resume}") from None
            self.history.append({"epoch": self.epoch + 1, **trained, **measured})
            self.epoch, self.step, self.totals = self.epoch + 1, 0, Totals(self.branches)
            accuracy = measured[f"validation_top1_{self.branches[-1]}"]
            if report is not None:
                report.epoch(self.history, self.evaluated, self.data, self.preprocessing)
                if accuracy > self.best:
                    save_network(self.evaluated, options.output / "best")
            self.best = max(self.best, accuracy)
            self.save()  # last: what a killed run did after it is done again
        if report is not None:
            report.summary(self.history)

    def train_epoch(self, forward: nn.Module, loader: torch.utils.data.DataLoader) -> dict[str, float]:
        """Trains to the end of the epoch, and returns its figures.

        Raises:
            Stopped: In all processes after the same step, if one was asked to stop or cannot go on.
            ValueError: If the loss is not a number any more.
        """
        options, processes, steps = self.options, self.processes, len(self.batches)
        forward.train()
        self.batches.epoch, self.batches.start = self.epoch, self.step
        began, first = time.monotonic(), self.step
        with Progress(self.epoch, self.step, steps, options, processes) as progress:
            batches = iter(loader)
            for step in range(self.step, steps):
                batch, failure = fetch(batches)
                self.check_for_stop(failure)
                self.train_step(forward, batch)
                self.step = step + 1
                if progress.advance():
                    progress.show(means := self.totals.means())
                    self.check_finite(means)
        means = self.means_of_all(self.totals)
        seconds = time.monotonic() - began
        return {
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in means.items()},
            "seconds": seconds,
            "images_per_second": (steps - first) * options.batch_size / seconds,
            "memory_bytes": processes.memory(),
        }

    def train_step(self, forward: nn.Module, batch: list[Tensor]) -> None:
        """Makes one step of the optimizer."""
        options, number = self.options, self.epoch * len(self.batches) + self.step
        seed_everything("step", options.seed, self.epoch, self.step, self.processes.rank)  # dropout, mixup
        images, targets, *edits = self.to_device(batch)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        self.schedule.step_update(number)
        with self.autocast():
            output = forward(images)
            loss = self.loss(output, targets, *edits)
        self.scaler.scale(loss).backward()
        if options.clip_gradient is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), options.clip_gradient)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model, step=number)
        self.totals.add(logits_of(output), targets, self.criterion)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Measures losses and accuracies of the branches on all validation images, each counted once.

        Raises:
            Stopped: As in :meth:`train_epoch`.
        """
        processes, totals = self.processes, Totals(self.branches)
        processes.broadcast_batch_norms(self.evaluated)
        self.evaluated.eval()
        most = math.ceil(math.ceil(len(self.data.validation) / processes.count) / self.validation.batch_size)
        batches = iter(self.validation)
        for _ in range(most):  # some processes may run out of images one batch before others
            batch, failure = fetch(batches)
            self.check_for_stop(failure)
            if batch is not None:
                images, labels = self.to_device(batch)
                with self.autocast():
                    output = self.evaluated(images)
                totals.add(logits_of(output), labels, nn.functional.cross_entropy)
        means = self.means_of_all(totals)
        return {f"validation_{name}": value for name, value in means.items()}

    def means_of_all(self, totals: Totals) -> dict[str, float]:
        """Returns losses and accuracies over the images of all processes."""
        means = Totals(self.branches, self.processes.sum(totals.sums)).means()
        self.check_finite(means)
        return means

    def check_finite(self, means: dict[str, float]) -> None:
        """Raises a ValueError if the training has diverged, so that no diverged state is saved."""
        if not all(map(math.isfinite, means.values())):
            raise ValueError(
                f"the loss in epoch {self.epoch + 1} is not a number any more: lower --learning-rate, or add "
                "--warmup-epochs or --clip-gradient; the last checkpoint is from before"
            )

    def check_for_stop(self, failure: str | None) -> None:
        """Raises ``Stopped`` in all processes if one was asked to stop or cannot go on."""
        if self.processes.any(self.stop.received > 0 or failure is not None):
            raise Stopped("asked to stop" if self.stop.received else failure or "another process stopped")

    def to_device(self, batch: list[Tensor]) -> list[Tensor]:
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        images, *others = (values.to(self.processes.device, non_blocking=True) for values in batch)
        return [images.contiguous(memory_format=layout), *others]

    def autocast(self) -> torch.autocast:
        precision = getattr(torch, self.options.amp or "bfloat16")
        return torch.autocast(self.processes.device.type, precision, enabled=self.options.amp is not None)

    def save(self) -> None:
        """Writes a checkpoint, in the leading process."""
        sums = self.processes.sum(self.totals.sums)
        if self.step:
            self.check_finite(Totals(self.branches, sums).means())
        if not self.processes.leader:
            return
        state = {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": sums,
            **{name: getattr(self, name) for name in ("epoch", "step", "best", "history")},
            "options": comparable(self.options, self.data),
        }
        save_state(state, self.options.output)

    def restore(self) -> None:
        """Reads the last checkpoint, if the run is to be resumed and there is one.

        Raises:
            ValueError: If the checkpoint is of a run with other options, or no checkpoint can be read.
        """
        state = load_state(self.options.output, self.processes) if self.options.resume else None
        if state is None:
            return
        check_same(complete(state["options"]), comparable(self.options, self.data), self.options.output)
        try:
            self.model.load_state_dict(state["model"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except Exception as error:  # torch may raise anything on values of another kind
            raise ValueError(
                f"the checkpoint in {self.options.output} does not hold the state of this run: {error}"
            ) from error
        if self.processes.leader:  # the sums are over all processes
            self.totals.sums = state["sums"]
        for name in ("epoch", "step", "best", "history"):
            setattr(self, name, state[name])


def run(options: Namespace, stop: StopRequest) -> str | None:
    """Trains or evaluates. Returns an error message, if any, when processes that load images have ended."""
    try:
        with Processes(options.device) as processes:
            trainer = Trainer(options, processes, stop)
            if options.evaluate is None:
                with alone(options.output, processes):
                    trainer.train()
            else:
                if holds_weights_alone(options):
                    load_weights(trainer.evaluated, options, comparable(options, trainer.data))
                measured = trainer.evaluate()
                if processes.leader:
                    for name, value in measured.items():
                        print(f"{name:30} {value:.4f}")
    except (Stopped, OSError, ValueError) as error:
        return f"train.py: {error}"
    return None


def main() -> None:
    options, stop = read_options(sys.argv[1:]), StopRequest()
    try:
        failure = run(options, stop)
    except KeyboardInterrupt:  # the second Ctrl-C
        os._exit(130)  # without waiting for the processes that load images
    if failure is not None:
        print(failure, file=sys.stderr)
        sys.exit(128 + stop.received if stop.received else 1)


if __name__ == "__main__":
    main()
