"""The reference trainer: what it leaves behind, how it goes on, and what it refuses."""

import csv
import errno
import functools
import inspect
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
import train
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from training import report
from training.checkpoints import save_state
from training.data import find_data, flip
from training.distributed import Processes
from training.edits import digest_of, training_images
from training.optimization import create_criterion, create_schedule
from training.options import DEFAULT_MODEL, read_options

import abn
from abn.edits import Edits, save_edit
from abn.images import read_image
from abn.preprocessing import CIFAR

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--image-size", "16", "--workers", "0", "--batch-size", "8", "--epochs", "2"]
STEPS = 6  # 26 images, in two epochs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images: 3 classes, 26 images to train on, 11 to validate with."""
    directory = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 26), ("val", 11)):
        for index in range(count):
            shade = 40 + 80 * (index % 3)
            noise = torch.randint(shade, shade + 40, (20, 24, 3), generator=generator, dtype=torch.uint8)
            folder = directory / part / ("ant", "bee", "cat")[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.numpy()).save(folder / f"{index}.png")
    return directory


@pytest.fixture
def own_photos(photos, tmp_path):
    """A copy for tests that spoil them."""
    return shutil.copytree(photos, tmp_path / "photos")


@pytest.fixture(scope="module")
def trained(photos):
    """Calls the trainer on these images."""

    def run(*words: object) -> None:
        network = [] if "--model" in words else ["--model-arguments", "depth=8"]
        arguments = ["--data", photos, *SMALL, *network, *words]
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(report, "draw_curves", lambda history: Figure((1, 1)))  # is slow, and tested alone
            patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
            try:
                train.main()
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    return run


@pytest.fixture(scope="module")
def usual(trained, tmp_path_factory):
    """The output of a run without further options."""
    directory = tmp_path_factory.mktemp("usual") / "run"
    trained("--output", directory)
    return directory


@pytest.fixture
def refused(trained, capsys):
    """Calls the trainer, which has to end with a message."""

    def run(message: str, *words: str) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            trained(*words)
        assert stop.value.code == 1
        assert re.search(message, capsys.readouterr().err)

    return run


def checkpoint(output):
    return torch.load(output / "last.pt", weights_only=True)


def log(output):
    with (output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_weights(one, other):
    for part in ("model", "ema"):
        weights, others = (checkpoint(output)[part] or {} for output in (one, other))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def interrupt(monkeypatch, at, action):
    """Lets something happen in the middle of step ``at``, counted over the whole run."""
    step, steps = train.Trainer.train_step, []

    def train_step(self, *arguments):
        step(self, *arguments)
        steps.append(1)
        if len(steps) == at:
            action()

    monkeypatch.setattr(train.Trainer, "train_step", train_step)


# What it leaves behind


def test_run_leaves_a_network_a_log_and_pictures(tmp_path, trained, capsys):
    trained("--output", tmp_path / "run", "--maps-every", 1)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock", "best", "curves.png", "last.pt", "log.csv", "maps", "previous.pt", "tensorboard",
    }  # fmt: skip
    rows = log(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    accuracies = [float(row["validation_top1_perception"]) for row in rows]
    assert f"top-1 {100 * float(rows[1]['validation_top1_attention']):.1f} /" in capsys.readouterr().out
    with Image.open(tmp_path / "run" / "maps" / "epoch0002.png") as picture:
        assert picture.width == 8 * 168 - 8
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.format == "PNG"

    network = abn.hub.load(tmp_path / "run" / "best")
    assert network.classes == ("ant", "bee", "cat")
    assert network.preprocessing == abn.Preprocessing().at((16, 16))
    trained("--evaluate", tmp_path / "run" / "best")
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(shown["validation_top1_perception"]) == pytest.approx(max(accuracies), abs=1e-4)
    trained("--evaluate", tmp_path / "run" / "last.pt")
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(shown["validation_loss_attention"]) == pytest.approx(
        float(rows[-1]["validation_loss_attention"]), abs=1e-4
    )


def test_curves_show_losses_and_errors_of_both_branches():
    row = {f"{part}_{measure}_{branch}": 0.25 for part in ("train", "validation")
           for measure in ("loss", "top1") for branch in ("attention", "perception")}  # fmt: skip
    losses, errors = report.draw_curves([{"epoch": 1, **row}, {"epoch": 2, **row}]).axes
    assert [line.get_ydata()[0] for line in losses.lines] == [0.25] * 4
    assert [line.get_ydata()[0] for line in errors.lines] == [75] * 4


def test_moving_average_is_what_is_kept_and_evaluated(tmp_path, trained, capsys):
    trained("--output", tmp_path / "run", "--ema", 0.5)
    rows = log(tmp_path / "run")
    capsys.readouterr()
    trained("--ema", 0.5, "--evaluate", tmp_path / "run" / "last.pt")
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    expected = float(rows[-1]["validation_loss_perception"])
    assert float(shown["validation_loss_perception"]) == pytest.approx(expected, abs=1e-4)
    best = max(range(2), key=lambda epoch: float(rows[epoch]["validation_top1_perception"]))
    trained("--evaluate", tmp_path / "run" / "best")
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    expected = float(rows[best]["validation_loss_perception"])
    assert float(shown["validation_loss_perception"]) == pytest.approx(expected, abs=1e-4)


def test_maps_without_upper_bound_are_drawn_too(tmp_path, trained):
    words = ["--model", "abn_se_resnet18", "--image-size", 64, "--epochs", 1]
    trained("--output", tmp_path / "run", *words)
    assert (tmp_path / "run" / "maps" / "epoch0001.png").exists()


def test_plain_network_begins_with_the_same_weights_and_is_evaluated_too(tmp_path, trained, capsys):
    for name, words in (("plain", ["--plain"]), ("abn", [])):
        trained("--output", tmp_path / name, "--learning-rate", 1e-9, "--epochs", 1, *words)
    plain, whole = checkpoint(tmp_path / "plain")["model"], checkpoint(tmp_path / "abn")["model"]
    assert torch.allclose(plain["0.layer1.0.conv1.weight"], whole["feature_extractor.layer1.0.conv1.weight"])
    assert not (tmp_path / "plain" / "maps").exists()
    capsys.readouterr()
    trained("--plain", "--evaluate", tmp_path / "plain" / "best")
    assert "validation_top1_plain" in capsys.readouterr().out


def test_fine_tuning_keeps_the_weights_and_their_colours(tmp_path, trained):
    network = abn.abn_cifar_resnet(8, num_classes=10)
    network.preprocessing = abn.Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    network.save_pretrained(tmp_path / "start")
    trained("--weights", tmp_path / "start", "--learning-rate", 1e-9, "--output", tmp_path / "run")
    tuned = abn.hub.load(tmp_path / "run" / "best")
    assert torch.allclose(
        tuned.feature_extractor.conv1.weight, network.feature_extractor.conv1.weight, atol=1e-6
    )
    assert (tuned.preprocessing.mean, tuned.preprocessing.size) == ((0.5,) * 3, (16, 16))


def test_weights_need_no_model_beside_them(tmp_path, trained):
    network = abn.wrap_backbone("timm/test_resnet", num_classes=10, input_size=32)
    network.save_pretrained(tmp_path / "start")
    words = ["--model", DEFAULT_MODEL, "--weights", tmp_path / "start"]  # as if nothing were said of a model
    trained(*words, "--output", tmp_path / "run", "--epochs", 1, "--image-size", 32)
    assert abn.hub.load(tmp_path / "run" / "best").built_with["backbone"] == "timm/test_resnet"


def test_fine_tuning_takes_what_the_weights_do_not_tell(tmp_path, trained, refused):
    network = abn.abn_cifar_wide_resnet(10, 1, num_classes=3)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "wide.pth.tar")
    words = ["--weights", tmp_path / "wide.pth.tar", "--model-arguments", "depth=10", "widen_factor=1"]
    trained("--output", tmp_path / "run", "--epochs", "1", *words, "dropout=0.3")
    assert abn.hub.load(tmp_path / "run" / "best").built_with["dropout"] == 0.3
    refused("does not hold the weights of", "--output", tmp_path / "other", *words, "depth=16")
    refused("is not loaded with", "--output", tmp_path / "other", *words, "num_classes=3")


def test_backbone_of_timm_is_trained_with_its_own_colours(tmp_path, trained):
    trained("--model", "timm/test_resnet", "--output", tmp_path / "run", "--epochs", 1)
    network = abn.hub.load(tmp_path / "run" / "best")
    assert network.built_with["backbone"] == "timm/test_resnet"
    assert network.preprocessing.mean == (0.5, 0.5, 0.5)


def test_cifar_is_read_from_its_files(tmp_path, monkeypatch, trained):
    """On made-up files: torchvision compares the true ones with their digests."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]
    for name in names:
        content = {"data": np.random.randint(256, size=(4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    words = ["--data", "cifar10", "--root", tmp_path, "--epochs", 1, "--image-size", 48]
    trained(*words, "--output", tmp_path / "run")
    network = abn.hub.load(tmp_path / "run" / "best")
    assert (network.classes, network.preprocessing) == (tuple("abcdefghij"), CIFAR.at((48, 48)))


# Options


@pytest.mark.parametrize(
    "words",
    ["--ema 0.9", "--mixup 0.5", "--label-smoothing 0.1", "--clip-gradient 0.1", "--auto-augment rand-m9",
     "--amp bfloat16", "--optimizer momentum", "--schedule step --milestones 1", "--seed 1",
     "--uncropped", "--class-weights balanced"],
)  # fmt: skip
def test_option_changes_the_weights(tmp_path, usual, trained, words):
    trained("--output", tmp_path / "run", *words.split())
    states = (checkpoint(output) for output in (usual, tmp_path / "run"))
    weights, others = (state["ema"] or state["model"] for state in states)
    assert not all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(value.isfinite().all() for value in others.values())


def test_uncropped_images_are_seen_whole(tmp_path, trained):
    trained("--uncropped", "--epochs", 1, "--output", tmp_path / "run")
    preprocessing = abn.hub.load(tmp_path / "run" / "best").preprocessing
    image = Image.effect_noise((24, 20), 64).convert("RGB")
    assert preprocessing.size == (16, 16)
    assert preprocessing.view(image) == image


def test_checkpoint_of_whole_images_is_not_evaluated_on_cropped_ones(tmp_path, trained, refused):
    trained("--uncropped", "--epochs", 1, "--output", tmp_path / "run")
    refused("uncropped True, now False", "--evaluate", tmp_path / "run" / "last.pt")


def test_uncropped_training_images_are_whole_or_mirrored():
    preprocessing = abn.Preprocessing((16, 16), (16, 16))
    image = Image.linear_gradient("L").rotate(90)
    whole, mirrored = preprocessing(image), preprocessing(ImageOps.mirror(image))
    seen = [flip(preprocessing, None)(image) for _ in range(32)]
    kinds = [torch.equal(each, whole) - torch.equal(each, mirrored) for each in seen]
    assert set(kinds) == {1, -1}


def test_balanced_classes_count_alike_in_sum():
    labels = [0] * 6 + [1] * 2 + [2]
    weights = create_criterion(read_options(["--class-weights", "balanced"]), labels).weight
    assert (weights * torch.tensor([6, 2, 1])).tolist() == pytest.approx([3, 3, 3])
    assert create_criterion(read_options([]), labels).weight is None


def test_a_run_from_before_an_option_was_there_goes_on(tmp_path, trained):
    trained("--epochs", 1, "--output", tmp_path / "run")
    state = checkpoint(tmp_path / "run")
    del state["options"]["uncropped"], state["options"]["class_weights"]
    torch.save(state, tmp_path / "run" / "last.pt")
    trained("--epochs", 1, "--output", tmp_path / "run", "--resume")


@pytest.mark.parametrize("words", ["--activation-checkpointing", "--channels-last", "--amp float16"])
def test_option_changes_the_cost_and_not_the_loss(tmp_path, trained, words):
    # One step: later ones differ by rounding that AdamW has enlarged.
    once = ["--epochs", 1, "--batch-size", 24]
    trained("--output", tmp_path / "usual", *once)
    trained("--output", tmp_path / "run", *once, *words.split())
    tolerance = 0.03 if "--amp" in words else 1e-4  # half precision has three digits
    row, other = log(tmp_path / "usual")[0], log(tmp_path / "run")[0]
    for name in ("train_loss_attention", "train_loss_perception"):
        assert float(other[name]) == pytest.approx(float(row[name]), rel=tolerance)


@pytest.mark.slow
def test_compiled_network_learns_the_same(tmp_path, usual, trained, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    trained("--output", tmp_path / "run", "--compile")
    losses = [float(log(output)[-1]["train_loss_perception"]) for output in (usual, tmp_path / "run")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_workers_change_nothing(tmp_path, usual, trained):
    trained("--output", tmp_path / "run", "--workers", 2)
    assert_equal_weights(usual, tmp_path / "run")


def rates(words, steps):
    """The learning rate of each step."""
    options = read_options(words.split())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=options.learning_rate)
    schedule = create_schedule(optimizer, options, steps)
    values = []
    for number in range(options.epochs * steps):
        schedule.step_update(number)
        values.append(optimizer.param_groups[0]["lr"])
    return values


def test_step_schedule_lowers_the_rate_at_the_beginning_of_an_epoch():
    words = "--schedule step --milestones 2 3 --learning-rate 0.1 --gamma 0.2 --epochs 4 --warmup-epochs 0"
    expected = [0.1] * 10 + [0.02] * 5 + [0.004] * 5
    assert rates(words, steps=5) == pytest.approx(expected)


def test_cosine_schedule_falls_after_the_warm_up():
    values = rates("--schedule cosine --learning-rate 1 --epochs 11 --warmup-epochs 1", steps=10)
    assert values[:10] == pytest.approx([step / 10 for step in range(10)])
    assert values[10:] == pytest.approx([(1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)])


# Going on


OPTIONS = ["--ema", "0.9", "--mixup", "0.5", "--optimizer", "momentum", "--auto-augment", "rand-m9"]


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """The output of a run with these options that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    trained("--output", directory, *OPTIONS)
    return directory


@pytest.mark.parametrize("at", range(1, STEPS))
def test_stopped_run_saves_leaves_and_goes_on_as_if_nothing_had_happened(
    tmp_path, whole, trained, monkeypatch, at
):
    with monkeypatch.context() as context:
        interrupt(context, at, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as stop:
            trained("--output", tmp_path / "stopped", *OPTIONS)
    assert stop.value.code == 128 + signal.SIGTERM
    state = checkpoint(tmp_path / "stopped")
    assert state["epoch"] * STEPS // 2 + state["step"] == at
    trained("--output", tmp_path / "stopped", "--resume", *OPTIONS)
    assert_equal_weights(whole, tmp_path / "stopped")
    for row, other in zip(log(whole), log(tmp_path / "stopped"), strict=True):
        assert row["train_loss_attention"] == other["train_loss_attention"]


def test_truncated_checkpoint_falls_back_to_the_one_before(tmp_path, usual, trained, refused, capsys):
    shutil.copytree(usual, tmp_path / "run")
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    trained("--output", tmp_path / "run", "--resume")
    assert f"warning: {last} cannot be read" in capsys.readouterr().err
    assert_equal_weights(usual, tmp_path / "run")
    assert (tmp_path / "run" / "last.broken").exists()
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / name).write_bytes(b"")
    refused(r"no checkpoint in .* can be read", "--output", tmp_path / "run", "--resume")


@pytest.mark.parametrize(
    "change",
    [{"options": []}, {"model": 3}, {"epoch": "2"}, {"history": None}, {"sums": 0.0}, {"optimizer": []}],
    ids=str,
)
def test_checkpoint_of_other_kinds_falls_back_to_the_one_before(change, tmp_path, usual, trained, capsys):
    shutil.copytree(usual, tmp_path / "run")
    last = tmp_path / "run" / "last.pt"
    torch.save(checkpoint(tmp_path / "run") | change, last)
    trained("--output", tmp_path / "run", "--resume")
    assert f"warning: {last} cannot be read" in capsys.readouterr().err
    assert_equal_weights(usual, tmp_path / "run")


def test_weights_of_another_network_in_a_checkpoint_are_told(tmp_path, usual, refused):
    shutil.copytree(usual, tmp_path / "run")
    torch.save(
        checkpoint(tmp_path / "run") | {"model": {"weight": torch.zeros(1)}}, tmp_path / "run" / "last.pt"
    )
    refused("does not hold the state of this run", "--output", tmp_path / "run", "--resume")


def test_two_trainers_do_not_write_into_one_folder(tmp_path, usual, trained, refused):
    shutil.copytree(usual, tmp_path / "run")
    words = ["--output", tmp_path / "run", "--resume"]
    part = tmp_path / "run" / f".{'0' * 32}.part"
    part.write_text("what the first is writing")
    with FileLock(tmp_path / "run" / ".lock"):
        refused("another trainer is writing into .*: wait for it, or take another --output", *words)
        assert part.exists()
    trained(*words)
    assert not part.exists()


def test_unreadable_image_is_named_and_nothing_is_lost(tmp_path, own_photos, usual, trained, refused):
    image = own_photos / "train" / "bee" / "4.png"
    content = image.read_bytes()
    image.write_bytes(content[:200])
    for workers in (0, 1):
        refused(
            f"{image} cannot be read",
            "--data",
            own_photos,
            "--output",
            tmp_path / "run",
            "--resume",
            "--workers",
            workers,
        )
    image.write_bytes(content)
    trained("--data", own_photos, "--output", tmp_path / "run", "--resume")
    assert_equal_weights(usual, tmp_path / "run")


def test_disk_without_room_for_checkpoints_is_told_at_the_start(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10_000))
    refused("has 0.0 MiB left, checkpoints may take .*: make room", "--output", tmp_path / "run")
    assert not (tmp_path / "run" / "log.csv").exists()


def test_full_disk_leaves_the_checkpoint_before(tmp_path, usual, trained, refused, monkeypatch):
    save = torch.save
    with monkeypatch.context() as context:
        full = OSError(errno.ENOSPC, "No space left on device")
        writes = iter([None, full])

        def torch_save(state, file):
            save(state, file)
            if error := next(writes):
                raise error

        context.setattr(torch, "save", torch_save)
        refused("could not be written, older ones are kept: .*No space left", "--output", tmp_path / "run")
    assert checkpoint(tmp_path / "run")["epoch"] == 1
    trained("--output", tmp_path / "run", "--resume")
    assert_equal_weights(usual, tmp_path / "run")


def test_run_killed_before_the_new_checkpoint_is_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    save_state({"epoch": 1}, tmp_path)
    replace = Path.replace

    def killed(path, target):
        if target.name == "last.pt":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state({"epoch": 2}, tmp_path)
    assert checkpoint(tmp_path) == {"epoch": 1}


@pytest.mark.parametrize("warmup_epochs", [0, 1])  # seen in training, and in the validation after it
def test_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path, refused, warmup_epochs):
    words = ["--output", tmp_path / "run", "--optimizer", "momentum", "--learning-rate", 1e30]
    refused("not a number any more: lower --learning-rate", *words, "--warmup-epochs", warmup_epochs)
    assert not (tmp_path / "run" / "last.pt").exists()


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def launch(tmp_path, *words):
    """Starts a process whose standard error goes to a file, and returns both."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    errors = tmp_path / f"errors{len(list(tmp_path.iterdir()))}.txt"
    with errors.open("w") as file:
        command = [sys.executable, *map(str, words)]
        return subprocess.Popen(command, env=environment, stderr=file), errors


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, photos):
    words = [EXAMPLES / "train.py", "--data", photos, *SMALL, *OPTIONS, "--epochs", 8, "--workers", 1]
    killed, _ = launch(tmp_path, *words, "--output", tmp_path / "killed")
    wait_for(tmp_path / "killed" / "last.pt", killed)
    time.sleep(random.uniform(0, 1))  # the test is of any moment
    assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert checkpoint(tmp_path / "killed")["epoch"] < 8
    for name in ("killed", "whole"):
        process, errors = launch(tmp_path, *words, "--output", tmp_path / name, "--resume")
        assert process.wait() == 0, errors.read_text()
    assert_equal_weights(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("**/.*.part"))  # what it was writing


# Several processes


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path, photos):
    script = Path(__file__).parent / "train_on_cpus.py"
    words = [script, "--data", photos, *SMALL, "--sync-batchnorm", "--auto-augment", "rand-m9"]
    # The two differ in rounding, which AdamW, depth, a few pixels, and large steps enlarge.
    words += ["--optimizer", "momentum", "--model-arguments", "depth=8", "--image-size", 32]
    words += ["--learning-rate", 0.0005, "--output"]
    one, two = launch(tmp_path, *words, tmp_path / "one"), launch(tmp_path, *TWO, *words, tmp_path / "two")
    for process, errors in (one, two):
        assert process.wait() == 0, errors.read_text()
    rows, others = log(tmp_path / "one"), log(tmp_path / "two")
    for row, other, tolerance in zip(rows, others, (1e-5, 1e-3), strict=True):
        for name in row:
            if name.startswith(("train", "validation")):  # 11 images to validate with: none counts twice
                assert float(other[name]) == pytest.approx(float(row[name]), rel=tolerance)


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_if_nothing_had_happened(tmp_path, photos):
    words = [EXAMPLES / "train.py", "--data", photos, *SMALL, *OPTIONS, "--epochs", 8, "--output"]
    stopped, errors = launch(tmp_path, *TWO, *words, tmp_path / "stopped")
    wait_for(tmp_path / "stopped" / "last.pt", stopped)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() != 0
    assert errors.read_text().count("asked to stop; the state is saved") == 2
    assert checkpoint(tmp_path / "stopped")["epoch"] < 8
    for name in ("stopped", "whole"):
        process, errors = launch(tmp_path, *TWO, *words, tmp_path / name, "--resume")
        assert process.wait() == 0, errors.read_text()
    assert_equal_weights(tmp_path / "whole", tmp_path / "stopped")


# What it refuses


def remove(path):
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        ("--data nowhere", None, "data is 'nowhere', but there is no folder nowhere/train and no"),
        ("", lambda photos: remove(photos / "val"), "there is no folder .*val"),
        ("", lambda photos: [path.unlink() for path in photos.glob("train/bee/*")], "train: Found no .* bee"),
        ("", lambda photos: remove(photos / "val" / "bee"), "differ in the classes bee"),
        ("", lambda photos: [remove(path) for path in photos.glob("*/[ab]*")], "holds the one class cat"),
        ("--batch-size 27", None, "--batch-size is 27, but there are only 26 images"),
        ("--batch-size 9 --mixup 0.2", None, "--mixup needs an even --batch-size"),
        ("--model abn_cifar_resnt", None, "no model 'abn_cifar_resnt', but abn_cifar_resnet"),
        ("--model timm/resnet51", None, "timm has no classifier 'resnet51'; similar: resnet"),
        ("--model cifar_resnet --model-arguments depth=8", None, "cifar_resnet has no attention branch"),
        ("--model timm/test_resnet --model-arguments tasks=3", None, "timm/test_resnet has 3 tasks"),
        ("--model abn_cifar_resnet --model-arguments width=8", None, "not built with the arguments .*width"),
        ("--weights nothing.safetensors", None, "there is no file nothing.safetensors"),
        ("--evaluate nothing.pt", None, "there is no file nothing.pt"),
        ("--evaluate nothing", None, "there is no file nothing"),
        ("--sync-batchnorm", None, "--sync-batchnorm needs GPUs"),
        ("--device gpu", None, "--device is 'gpu', which is not available on this machine"),
        ("--auto-augment foo", None, "--auto-augment is 'foo', no policy of timm"),
        ("--uncropped --data digits", None, "--uncropped is for images of a folder"),
        ("--auto-augment rand --data digits", None, "--auto-augment is of no use for digits"),
        ("--model torchvision/resnet18 --model-arguments weights=FOO", None, "not built with .*FOO"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_the_start(tmp_path, own_photos, refused, words, change, message):
    if change is not None:
        change(own_photos)
    refused(message, "--data", own_photos, "--output", tmp_path / "run", *words.split())
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epochs 0", "expected a whole number of at least 1"),
        ("--learning-rate nan", "expected a number of at least"),
        ("--ema 1.5", "expected a number from 0 to 1"),
        ("--model-arguments 110", "expected NAME=VALUE"),
        ("--optimizer sdg", "invalid choice: 'sdg'"),
        ("--milestones 5", "belong to --schedule step"),
        ("--warmup-epochs 15", "15 of 15 epochs are warm-up"),
        ("--recipe nothing.yaml", "nothing.yaml cannot be read"),
    ],
)
def test_wrong_option_is_told_by_its_name(words, message, capsys):
    with pytest.raises(SystemExit):
        read_options(words.split())
    assert message in capsys.readouterr().err


def test_checkpoint_is_evaluated_as_what_it_is(tmp_path, own_photos, usual, refused):
    refused("other options: image_size 16, now 32", "--evaluate", usual / "last.pt", "--image-size", 32)
    for part in ("train", "val"):
        (own_photos / part / "ant").rename(own_photos / part / "dog")
    refused("knows the classes .*ant", "--evaluate", usual / "best", "--data", own_photos)


@pytest.mark.parametrize("content", [b"", b"hello", "cut", "damaged"])
def test_damaged_checkpoint_is_told(tmp_path, usual, refused, content):
    whole = (usual / "last.pt").read_bytes()
    if isinstance(content, str):
        content = whole[:-1000] if content == "cut" else whole[:20_000] + bytes(4000) + whole[24_000:]
    (tmp_path / "last.pt").write_bytes(content)
    refused("last.pt cannot be read", "--evaluate", tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("epochz: 3", "sets 'epochz', which is no option; similar: epochs"),
        ("recipe: other.yaml", "sets 'recipe', which is no option"),
        ("output: 2024-02-30", "cannot be read"),
        ("- epochs", "holds no lines like"),
        ("epochs: [1, 2]", "unrecognized arguments: 2"),
        ("epochs: many", "'many', expected a whole number"),
    ],
)
def test_wrong_recipe_is_told(tmp_path, recipe, message, capsys):
    (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(SystemExit):
        read_options(["--recipe", str(tmp_path / "recipe.yaml")])
    assert message in capsys.readouterr().err


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path, own_photos, usual, trained):
    (own_photos / "train" / "ant" / "._0.png").write_bytes(b"of another system")
    (own_photos / "train" / ".cache").mkdir()
    trained("--data", own_photos, "--output", tmp_path / "run")
    assert_equal_weights(usual, tmp_path / "run")


def test_images_of_all_formats_are_trained_on_and_others_are_told(tmp_path, own_photos, trained, capsys):
    with Image.open(own_photos / "train" / "ant" / "0.png") as image:
        image.save(own_photos / "train" / "ant" / "0.gif")
    (own_photos / "train" / "bee" / "1.raw").write_bytes(b"of a camera")
    trained("--data", own_photos, "--output", tmp_path / "run", "--epochs", "1")
    told = capsys.readouterr().err
    assert f"warning: {own_photos / 'train'}: 1 file is not read as images: 1 .raw" in told
    assert checkpoint(tmp_path / "run")["options"]["training images"] == 27


def test_run_is_neither_overwritten_nor_resumed_as_another(tmp_path, own_photos, usual, refused):
    shutil.copytree(usual, tmp_path / "run")
    words = ["--output", tmp_path / "run"]
    refused("holds a run already: add --resume", *words)
    message = "other options: .*model 'abn_cifar_resnet', now 'timm/test_resnet'"
    refused(message, *words, "--resume", "--model", "timm/test_resnet")
    (own_photos / "train" / "ant" / "0.png").unlink()
    refused("training images 26, now 25", *words, "--resume", "--data", own_photos)
    assert checkpoint(tmp_path / "run")["epoch"] == 2


# Documentation


def test_scripts_of_the_documentation_run(own_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def blocks(name):
        page = (EXAMPLES.parent / "docs" / name).read_text(encoding="utf-8")
        code = [part.split("```")[0] for part in page.split("```python\n")[1:]]
        return [block for block in code if not block.startswith(">>>")]  # those are doctests

    picture, script, edits = blocks("training.md")
    for shown, short in (
        ("resnet50", "test_resnet"),
        ("=True, num", "=False, num"),
        ("range(10)", "range(1)"),
    ):
        assert script.count(shown) == 1
        script = script.replace(shown, short)
    exec(script, {})
    assert abn.hub.load(tmp_path / "photos-model").classes == ("ant", "bee", "cat")
    picture = picture.replace("runs/photos/best", "photos-model").replace("cell.png", "photos/val/ant/0.png")
    exec(picture, {})
    (compare,) = blocks("report.md")
    exec(compare.replace("runs/photos/best", "photos-model"), {})
    assert (tmp_path / "comparison.png").is_file()
    shutil.copytree(own_photos / "train", tmp_path / "masks")
    exec(edits.replace("runs/photos/best", "photos-model"), {})
    assert list(Edits("edits")) == ["ant/0.png", "bee/1.png", "cat/2.png"]


RECIPES = sorted((EXAMPLES / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_model_of_a_recipe_can_be_built(recipe):
    options = read_options(["--recipe", str(recipe), "--epochs", "400"])
    assert options.epochs == 400
    builder = getattr(abn, options.model, None) or functools.partial(abn.wrap_backbone, options.model)
    inspect.signature(builder).bind(**options.model_arguments)


def official_commands():
    """Recipe and official command, line by line of the documentation's table."""
    page = (EXAMPLES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    command = ""
    for line in page.splitlines():
        if line.startswith("|") and (names := re.findall("`((?:cifar|imagenet)[a-z0-9_]*)`", line)):
            command = next(iter(re.findall("`((?:cifar|imagenet)[.]py .*?)`", line)), command)
            yield from ((name, command) for name in names)


def test_every_recipe_is_listed_once():
    assert sorted(name for name, _ in official_commands()) == [path.stem for path in RECIPES]


@pytest.mark.parametrize(("name", "command"), list(official_commands()))
def test_recipe_trains_as_the_official_command(name, command):
    options = read_options(["--recipe", str(EXAMPLES / "recipes" / f"{name}.yaml")])

    def given(flag, default):
        found = re.search(f"{flag} ([0-9. e-]*[0-9])", command)
        return [float(number) for number in found[1].split()] if found else default

    imagenet = command.startswith("imagenet")
    assert [options.epochs] == given("--epochs", [90 if imagenet else 300])
    assert [options.batch_size] == given("--train-batch", [256 if imagenet else 128])
    assert [options.weight_decay] == given("--wd", [1e-4 if imagenet else 5e-4])
    assert options.milestones == given("--schedule", [31, 61] if imagenet else [150, 225])
    assert [options.gamma] == given("--gamma", [0.1])
    assert (options.optimizer, options.learning_rate, options.momentum) == ("momentum", 0.1, 0.9)
    assert (options.schedule, options.warmup_epochs) == ("step", 0)
    arguments = options.model_arguments
    for flag, argument in (("--depth", "depth"), ("--growthRate", "growth_rate"), ("--drop", "dropout"),
                           ("--cardinality", "cardinality")):  # fmt: skip
        if not imagenet and given(flag, None):
            assert given(flag, None) == [arguments[argument]]
    assert arguments["map"] == "convolution"
    if imagenet:
        assert "resnext50" in name or options.model == f"abn_{name.split('_')[1]}"


# Edited maps


def edit(folder, data, count, **arguments):
    """Edits the maps of some training images of ants: their upper left quarters."""
    quarter = torch.zeros(1, 8, 8)
    quarter[:, :4, :4] = 1
    names = sorted(path.relative_to(data / "train").as_posix() for path in (data / "train/ant").glob("*.png"))
    arguments = {"preprocessing": abn.Preprocessing((32, 32), (32, 32)), **arguments}
    for name in names[:count]:
        save_edit(folder, name, quarter, **arguments)


EDITED = ("--uncropped", "--image-size", "32", "--edited-maps")


def test_edited_maps_draw_the_maps_of_the_network(trained, photos, tmp_path):
    edit(tmp_path / "edits", photos, 9)
    shares = []
    for name, words in (("without", ()), ("with", ("--map-weight", "30"))):
        edits = (*EDITED, tmp_path / "edits") if words else EDITED[:-1]
        trained(*edits, *words, "--output", tmp_path / name, "--epochs", "4")
        model = abn.hub.load(tmp_path / name / "best")
        images = [model.preprocessing(read_image(path)) for path in (photos / "train/ant").glob("*.png")]
        with torch.no_grad():
            maps = model(torch.stack(images)).attention_map
        shares.append((maps[..., : maps.shape[-2] // 2, :].sum() / maps.sum()).item())
    assert shares[1] > shares[0] + 0.1  # the images are mirrored, so that left and right are alike


def test_image_and_edited_map_are_mirrored_together(photos, tmp_path):
    edit(tmp_path, photos, 1)
    data = find_data(str(photos), None, True, Processes("cpu"))
    options = SimpleNamespace(edited_maps=tmp_path, seed=0, data=str(photos))
    images = training_images(data, abn.Preprocessing((32, 32), (32, 32)), options)
    (index,) = [index for index, name in enumerate(images.names) if name in images.maps]
    seen = set()
    for epoch in range(8):
        pixels, label, attention_map, given = images[epoch, index]
        assert (label, given) == (0, True)
        mirrored = bool(attention_map[..., 0].max() < 0.5)
        expected = images.preprocessing(images.images[index][0])
        assert torch.equal(pixels, expected.flip(-1) if mirrored else expected)
        seen.add(mirrored)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*EDITED[:-1], "--edited-maps", "nowhere"), r"nowhere holds no manifest\.json"),
        (("--edited-maps", "EDITS", "--image-size", "32"), "sees another part of them"),
        ((*EDITED, "EDITS", "--plain"), "--edited-maps does not go with --plain"),
        ((*EDITED, "EDITS", "--mixup", "0.2"), "--edited-maps does not go with --mixup"),
        (("--data", "digits", "--edited-maps", "EDITS"), "is for images of a folder, not for digits"),
    ],
)
def test_edited_maps_that_do_not_belong_are_refused(words, message, trained, photos, tmp_path, capsys):
    edit(tmp_path / "edits", photos, 1)
    words = [tmp_path / "edits" if word == "EDITS" else word for word in words]
    with pytest.raises(SystemExit):
        trained(*words, "--output", tmp_path / "run")
    assert re.search(message, capsys.readouterr().err)


def test_run_with_edits_is_resumed_with_these_edits_alone(trained, photos, tmp_path, capsys):
    edit(tmp_path / "edits", photos, 3)
    words = (*EDITED, tmp_path / "edits", "--output", tmp_path / "run", "--resume")
    trained(*words)
    trained(*words)
    assert checkpoint(tmp_path / "run")["epoch"] == 2
    edit(tmp_path / "edits", photos, 4)
    digest_of.cache_clear()
    with pytest.raises(SystemExit):
        trained(*words)
    assert "has other options: edited_maps" in capsys.readouterr().err


def test_edits_of_other_images_are_refused(trained, photos, tmp_path, capsys):
    arguments = {"preprocessing": abn.Preprocessing((32, 32), (32, 32))}
    save_edit(tmp_path / "edits", "ant/other.png", torch.ones(1, 4, 4), **arguments)
    with pytest.raises(SystemExit):
        trained(*EDITED, tmp_path / "edits", "--output", tmp_path / "run")
    assert "holds edits for ['ant/other.png'], which are no images in" in capsys.readouterr().err
