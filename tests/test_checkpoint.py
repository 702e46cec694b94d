"""Files of weights, good and bad: what is no plain state dict is refused before it can do anything."""

import io
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from abn import abn_cifar_resnet, hub
from abn.checkpoint import CheckpointError, read_weights
from abn.hub.official import to_reference


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    return to_reference(abn_cifar_resnet(8, map="convolution").state_dict())


def trainers(state_dict: dict[str, torch.Tensor], **others: object) -> dict[str, object]:
    """A checkpoint as the official trainer writes it."""
    return {
        "epoch": 300,
        "state_dict": {f"module.{key}": value for key, value in state_dict.items()},
        "acc": torch.tensor(77.5),
        "best_acc": torch.tensor(77.5),
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1, momentum=0.9).state_dict(),
        **others,
    }


def assert_read(path: Path, expected: dict[str, torch.Tensor]) -> None:
    found, _ = read_weights(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict"])
def test_state_dict_is_found(official, entry, zipped, tmp_path):
    content = official if entry is None else trainers({}) | {entry: official}
    if entry == "model_state_dict":
        del content["state_dict"]
    torch.save(content, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=zipped)
    assert_read(tmp_path / "model.pth.tar", official)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_are_taken_off(official, prefix, tmp_path):
    torch.save({prefix + key: value for key, value in official.items()}, tmp_path / "model.pth")
    assert_read(tmp_path / "model.pth", official)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_scalars_of_a_trainer_are_read(official, module, dtype, zipped, tmp_path):
    path = tmp_path / "model_best.pth.tar"
    torch.save(trainers(official, best_acc=dtype(1)), path, _use_new_zipfile_serialization=zipped)
    assert_read(path, official)
    if not zipped:  # as written by another version of NumPy
        for other in ("numpy.core.multiarray", "numpy._core.multiarray"):
            path.write_bytes(path.read_bytes().replace(f"c{other}\n".encode(), f"c{module}\n".encode()))
        assert f"c{module}\n".encode() in path.read_bytes()
        assert_read(path, official)


def test_safetensors_are_read(official, tmp_path):
    save_file(official, tmp_path / "model.safetensors", {"format": "pt"})
    assert_read(tmp_path / "model.safetensors", official)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")  # the content counts, not the name
    assert_read(tmp_path / "model.bin", official)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("place", ["best_acc", "state_dict"])
def test_payload_of_a_malicious_pickle_does_not_run(official, place, zipped, tmp_path):
    content = trainers(official)
    payload = Payload(tmp_path / "was here")
    content[place] = payload if place == "best_acc" else {"module.conv1.weight": payload}
    torch.save(content, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"io\.open, that only code named in the file could restore"):
        hub.load(tmp_path / "model.pth")
    assert not (tmp_path / "was here").exists()
    torch.load(tmp_path / "model.pth", weights_only=False)  # and it is indeed one that would
    assert (tmp_path / "was here").exists()


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / "model.pth").write_bytes(pickle.dumps(Payload(tmp_path / "was here")))
    with pytest.raises(CheckpointError, match=r"damaged, cut short or no checkpoint|could restore"):
        read_weights(tmp_path / "model.pth")
    assert not (tmp_path / "was here").exists()


def test_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.DataParallel(torch.nn.Linear(2, 2)), tmp_path / "model.pth")
    message = r"torch\.nn\.parallel\.data_parallel\.DataParallel, .* torch\.save\(model\.state_dict\(\)"
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("kind", ["zip", "before PyTorch 1.6", "safetensors"])
def test_file_cut_short_is_refused(official, kind, tmp_path):
    path = tmp_path / "model"
    if kind == "safetensors":
        save_file(official, path)
    else:
        torch.save(trainers(official), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    lengths = random.Random(0).sample(range(1, len(whole)), 50)
    for length in [1, *lengths, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            read_weights(path)


def test_random_bytes_are_refused(tmp_path):
    generator = random.Random(0)
    for length in [2, 8, 9, 100, 10_000] * 10:
        (tmp_path / "model.pth").write_bytes(generator.randbytes(length))
        with pytest.raises(CheckpointError, match="damaged, cut short or no checkpoint"):
            read_weights(tmp_path / "model.pth")


def test_flipped_bits_never_raise_anything_else(official, tmp_path):
    buffer = io.BytesIO()
    torch.save(trainers(official), buffer)
    size = len(buffer.getvalue())
    generator = random.Random(0)
    refused = 0
    for place in range(200):
        damaged = bytearray(buffer.getvalue())
        # The pickle comes first, then the numbers, and last the list of contents.
        start, end = (0, 3000) if place % 2 else (size - 10_000, size)
        damaged[generator.randrange(start, end)] ^= 1 << generator.randrange(8)
        (tmp_path / "model.pth").write_bytes(damaged)
        try:
            read_weights(tmp_path / "model.pth")
        except CheckpointError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", ["pickle protocol 4", "TorchScript"])
def test_refusal_never_advises_to_unpickle(official, kind, tmp_path):
    if kind == "TorchScript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pth")
    else:
        torch.save(official, tmp_path / "model.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"TorchScript|Unsupported operand") as raised:
        read_weights(tmp_path / "model.pth")
    assert "False" not in str(raised.value)


def test_entries_of_one_name_are_refused(tmp_path):
    torch.save({"fc.bias": torch.zeros(1), "module.fc.bias": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"entries \['fc\.bias', 'module\.fc\.bias'\] stand for the same"
    ):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>", "is a web page"),
        (b"\n<HTML><body>Sorry</body></HTML>", "is a web page"),
        (struct.pack("<Q", 1 << 40) + b'{"conv":{}}', "damaged, cut short"),
    ],
)
def test_file_of_another_kind_is_refused(content, message, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "model.pth")


def test_directory_and_missing_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a directory, expected a file"):
        read_weights(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "model.pth")


def test_numpy_scalar_that_claims_much_memory_takes_none(official, tmp_path):
    class Scalar:
        def __init__(self, size: int) -> None:
            self.dtype = np.dtype(f"V{size}")

        def __reduce__(self):
            return np.float64(0).__reduce__()[0], (self.dtype, b"x")

    torch.save(trainers(official, best_acc=[Scalar(10**9)] * 1000), tmp_path / "model.pth")  # 1 TB
    assert_read(tmp_path / "model.pth", official)


def test_weights_that_share_memory_are_read(official, tmp_path):
    official = {**official, "layer3.0.bn1.bias": official["att_layer3.0.bn1.bias"]}
    torch.save(official, tmp_path / "model.pth")
    assert_read(tmp_path / "model.pth", official)
    hub.convert(tmp_path / "model.pth", tmp_path / "model.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none on this system")
def test_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="is a device, expected a file"):
        read_weights(tmp_path / "model.pth")


def test_zip_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    torch.save({"conv1.weight": torch.zeros(1 << 22)}, tmp_path / "model.pth")
    with (
        zipfile.ZipFile(tmp_path / "model.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    read = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: read.append(args))
    with pytest.raises(CheckpointError, match=r"but claims to unpack to 167\d\d\d\d\d"):
        read_weights(tmp_path / "bomb.pth")
    assert not read


def test_weights_that_claim_more_than_the_file_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"claims to hold more weights than that: conv1\.weight"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2).to(torch.float8_e4m3fn), r"conv1\.weight \(torch\.float8_e4m3fn, "),
        (torch.zeros(2, dtype=torch.complex64), r"conv1\.weight \(torch\.complex64, "),
        (torch.zeros(2).to_sparse(), r"torch\.sparse_coo"),
        (torch.zeros(2, device="meta"), r"meta"),
        (torch.zeros(2, 0), r"\(2, 0\)"),
        (3.0, "expected tensors alone"),
        ({"deeper": torch.zeros(2)}, "expected tensors alone"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, message, tmp_path):
    torch.save({"conv1.weight": value}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [[], {}, [torch.zeros(1)], torch.zeros(1), 3, {"state_dict": {}}])
def test_what_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="expected"):
        read_weights(tmp_path / "model.pth")


def test_names_that_are_no_texts_are_refused(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="holds 1, expected tensors"):
        read_weights(tmp_path / "model.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_loaded_with_a_warning(official, value, tmp_path):
    official = official | {"fc.bias": torch.full((10,), value)}
    torch.save(official, tmp_path / "model.pth")
    with pytest.warns(UserWarning, match=r"NaN or infinite weights: fc\.bias"):
        read_weights(tmp_path / "model.pth")
