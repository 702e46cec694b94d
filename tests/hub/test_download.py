"""Files enter the cache whole, once, and are the same ever after."""

import errno
import hashlib
import io
import multiprocessing
from pathlib import Path
from unittest.mock import create_autospec

import gdown
import pytest
import torch
from gdown.download import GoogleDriveFileToDownload
from server import Server, serving

from abn import abn_cifar_resnet, abn_resnet18, hub
from abn.hub import CheckpointError
from abn.hub.download import DownloadError, cached
from abn.hub.official import to_reference

FOLDER = "https://drive.google.com/drive/folders/1Wp7_tIXjq24KSI2VaL9V2N8NRlASLETD"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no waiting between attempts."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr("random.uniform", lambda *bounds: 0.0)  # which gdown draws it from
    return tmp_path / "hub" / "abn"


@pytest.fixture(scope="module")
def content() -> bytes:
    """A checkpoint of the official code."""
    buffer = io.BytesIO()
    torch.save(
        {"state_dict": to_reference(abn_cifar_resnet(8, num_classes=100, map="convolution").state_dict())},
        buffer,
    )
    return buffer.getvalue()


@pytest.fixture
def server(content) -> Server:
    with serving(content) as server:
        yield server


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_address_is_fetched_once(server, cache, content):
    model = hub.load(server.address())
    assert not any(module.training for module in model.modules())
    assert model.built_with["model"] == "abn_cifar_resnet"
    name, record = files(cache)
    assert name.endswith("-model.pth")
    assert (cache / name).read_bytes() == content
    assert (cache / record).read_text() == hashlib.sha256(content).hexdigest()
    again = hub.load(server.address())
    assert len(server.requests) == 1
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_files_of_one_name_from_two_addresses_are_two(server, cache):
    hub.load(server.address("one/model.pth"))
    hub.load(server.address("two/model.pth?download=true"))
    assert len(files(cache)) == 4
    assert len(server.requests) == 2


def test_progress_is_shown_if_asked_for(server, capfd):
    hub.load(server.address("one.pth"), progress=False)
    assert capfd.readouterr().err == ""
    hub.load(server.address("two.pth"))
    assert "100%" in capfd.readouterr().err


def test_slow_start_is_waited_for(server):
    server.delay = 0.5
    hub.load(server.address())


def test_connection_that_is_cut_is_taken_up_where_it_stopped(server, cache, content):
    server.cut_at = [1000, 600_000]
    hub.load(server.address())
    assert server.requests == [None, None, "bytes=524288-"]  # gdown reads in pieces of 512 KiB
    assert (cache / files(cache)[0]).read_bytes() == content


def test_connection_that_keeps_being_cut_leaves_nothing_behind(server, cache):
    server.cut_at = [1000, 2000, 3000, 4000]
    with pytest.raises(
        DownloadError,
        match=r"received 0 bytes but .* announced \d+ bytes\.\nOpen http://127\.0\.0\.1.* save the file as ",
    ):
        hub.load(server.address())
    assert files(cache) == []
    hub.load(server.address())


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusal_says_what_to_do_by_hand(server, cache, status):
    server.status = status
    with pytest.raises(
        DownloadError, match=rf"{status} .*\nOpen (\S+) in a browser, save the file as (\S+),"
    ) as raised:
        hub.load(server.address())
    assert files(cache) == []
    path = Path(str(raised.value).split("save the file as ")[1].split(",")[0])
    assert path.parent == cache
    path.write_bytes(server.content)  # as the message says
    hub.load(server.address())
    assert len(server.requests) == 1
    assert f"{path.name}.sha256" in files(cache)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            b"<!DOCTYPE html><title>Quota exceeded</title>",
            "model.pth could not be fetched: what came is a web page",
        ),
        (b"", "what came is empty"),
        (b"\0" * 1000, "what came is damaged"),
    ],
)
def test_answer_that_is_no_checkpoint_never_enters_the_cache(server, cache, answer, message):
    server.content = answer
    with pytest.raises(DownloadError, match=message):
        hub.load(server.address())
    assert files(cache) == []


def test_no_network_says_what_to_do_by_hand(cache):
    with serving(b"") as server:
        address = server.address()
    with pytest.raises(DownloadError, match=r"refused.*\nOpen http"):
        hub.load(address)
    assert files(cache) == []


def test_full_disk_says_what_to_do_by_hand(server, cache, monkeypatch):
    def full(*args, output, **kwargs):
        Path(output).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gdown, "download", full)
    with pytest.raises(DownloadError, match=r"No space left on device.*\nOpen http"):
        hub.load(server.address())
    assert files(cache) == []


def test_cache_that_cannot_be_written_says_what_to_do_by_hand(server, cache):
    cache.parent.mkdir()
    cache.write_text("a file where the directory should be")
    with pytest.raises(DownloadError, match=r"Open http.* save the file as .*; or hand the path"):
        hub.load(server.address())


def test_interrupted_download_leaves_nothing_behind(server, cache, monkeypatch):
    def interrupted(*args, output, **kwargs):
        Path(output).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(gdown, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hub.load(server.address())
    assert files(cache) == []


def test_what_a_killed_process_left_is_cleared_away(server, cache):
    hub.load(server.address())
    name, record = files(cache)
    (cache / name).unlink()
    (cache / record).unlink()
    (cache / f".{name}.part").mkdir()
    (cache / f".{name}.part" / "half").write_bytes(b"half")
    hub.load(server.address())
    assert files(cache) == [name, record]


def test_file_that_changed_in_the_cache_is_refused(server, cache):
    hub.load(server.address())
    name, _ = files(cache)
    (cache / name).write_bytes((cache / name).read_bytes() + b"\0")
    with pytest.raises(
        ValueError,
        match=r"has the SHA-256 \w{64}, expected \w{64}: it is not the file that was first seen .* Delete it",
    ):
        hub.load(server.address())


def test_record_outlives_its_file(server, cache, content):
    hub.load(server.address())
    name, record = files(cache)
    (cache / name).unlink()
    server.content = content + b"\0"
    message = (
        rf"its SHA-256 is \w{{64}}, expected \w{{64}} as in {record}: delete that if a new file is welcome"
    )
    with pytest.raises(DownloadError, match=message):
        hub.load(server.address())
    assert files(cache) == [record]
    server.content = content
    hub.load(server.address())


def test_file_in_a_cache_that_cannot_be_written_is_taken(server, cache, content, monkeypatch):
    hub.load(server.address())
    name, record = files(cache)
    (cache / record).unlink()

    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("abn.hub.download.replacing", refuse)
    hub.load(server.address())
    assert files(cache) == [name]


@pytest.mark.parametrize("record", [b"", b"\xff\xfe"])
def test_record_that_is_none_is_refused_or_made_anew(record, server, cache):
    hub.load(server.address())
    _, name = files(cache)
    (cache / name).write_bytes(record)
    if record:
        with pytest.raises(ValueError, match="it is not the file that was first seen here"):
            hub.load(server.address())
    else:
        hub.load(server.address())
        assert (cache / name).read_text() == hashlib.sha256(server.content).hexdigest()


def test_directory_in_place_of_the_file_says_what_to_do_by_hand(server, cache):
    hub.load(server.address())
    name, _ = files(cache)
    (cache / name).unlink()
    (cache / name).mkdir()
    with pytest.raises(DownloadError, match=r"Is a directory.*\nOpen http"):
        hub.load(server.address())


def test_half_a_checkpoint_never_enters_the_cache(server, cache):
    state_dict = abn_cifar_resnet(8).state_dict()
    del state_dict["perception_branch.tail.fc.bias"]
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    server.content = buffer.getvalue()
    with pytest.raises(DownloadError, match=r"missing: perception_branch\.tail\.fc\.bias"):
        hub.load(server.address())
    assert files(cache) == []


def test_weights_that_are_not_finite_are_warned_of_once(server, cache):
    state_dict = abn_cifar_resnet(8).state_dict()
    state_dict["perception_branch.tail.fc.bias"].fill_(float("nan"))
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    server.content = buffer.getvalue()
    with pytest.warns(UserWarning, match="NaN") as warned:
        hub.load(server.address())
    (message,) = {str(warning.message) for warning in warned}
    assert message.startswith(f"{cache / files(cache)[0]} holds")


def test_name_may_be_of_any_length(server, cache):
    hub.load(server.address("a" * 5000 + ".pth"))
    assert len(files(cache)[0]) < 130


def test_cache_that_cannot_be_written_is_read(server, cache, monkeypatch):
    hub.load(server.address())

    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("abn.hub.download.FileLock", refuse)
    hub.load(server.address())


def test_pinned_digest_is_checked(server, cache, content):
    right = hashlib.sha256(content).hexdigest()
    with pytest.raises(DownloadError, match=rf"its SHA-256 is {right}, expected 0000"):
        cached(server.address(), "model.pth", check=lambda path: None, sha256="0" * 64)
    assert files(cache) == []
    cached(server.address(), "model.pth", check=lambda path: None, sha256=right)
    with pytest.raises(ValueError, match=rf"has the SHA-256 {right}, expected 0000"):
        cached(server.address(), "model.pth", check=lambda path: None, sha256="0" * 64)


def _fetch_in_process(arguments: tuple[str, str]) -> bytes:
    directory, address = arguments
    torch.hub.set_dir(directory)
    return cached(address, "model.pth", check=lambda path: None, progress=False).read_bytes()


@pytest.mark.slow
def test_two_processes_fetch_one_file_once(server, cache, content):
    server.delay = 0.5
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = pool.map(_fetch_in_process, [(str(cache.parent), server.address())] * 2, chunksize=1)
    assert both == [content, content]
    assert len(server.requests) == 1


@pytest.fixture
def drive(monkeypatch, content):
    """Google Drive, at the interface of gdown: a folder of these files, each with this content."""
    listing = create_autospec(gdown.download_folder)
    listing.return_value = [GoogleDriveFileToDownload("42", "model_best.pth.tar", "model_best.pth.tar")]
    download = create_autospec(gdown.download)
    download.side_effect = lambda *args, output, **kwargs: Path(output).write_bytes(content)
    monkeypatch.setattr(gdown, "download_folder", listing)
    monkeypatch.setattr(gdown, "download", download)
    return listing, download


def test_published_weights_come_from_their_folder(drive, cache):
    listing, download = drive
    model = hub.load("abn_resnet110_cifar100")
    assert model.perception_branch.tail.fc.out_features == 100
    assert listing.call_args.kwargs["url"] == FOLDER
    assert listing.call_args.kwargs["skip_download"] is True
    assert download.call_args.kwargs["id"] == "42"
    assert files(cache) == ["abn_resnet110_cifar100.pth.tar", "abn_resnet110_cifar100.pth.tar.sha256"]
    hub.load("abn_resnet110_cifar100")
    assert download.call_count == 1


def test_published_weights_come_from_their_file(drive):
    listing, download = drive
    buffer = io.BytesIO()
    torch.save(to_reference(abn_resnet18(num_classes=200, map="convolution").state_dict()), buffer)
    download.side_effect = lambda *args, output, **kwargs: Path(output).write_bytes(buffer.getvalue())
    model = hub.load("abn_resnet18_cub", progress=False)
    built = {"model": "abn_resnet18", "num_classes": 200, "map": "convolution"}
    assert model.built_with == {**built, "stage": "copy", "start": "new", "mechanism": "residual"}
    assert (
        download.call_args.kwargs["url"]
        == "https://drive.google.com/file/d/1SGlBahck_F8CkBmfxkCCjBjA_2UT_t1v"
    )
    assert download.call_args.kwargs["quiet"] is True
    assert not listing.called


def test_other_network_than_the_table_says_is_refused(drive, cache):
    with pytest.raises(
        DownloadError, match=r"what came holds .*abn_cifar_resnet.*, expected those of abn_resnet152"
    ):
        hub.load("abn_resnet152")
    assert files(cache) == []


@pytest.mark.parametrize("names", [[], ["log.txt"], ["one.pth.tar", "two.pth.tar"]])
def test_folder_without_one_file_of_weights_is_refused(drive, names, cache):
    listing, _ = drive
    listing.return_value = [GoogleDriveFileToDownload("42", name, name) for name in names]
    with pytest.raises(DownloadError, match=r"the folder holds \[.*\], expected one file of weights"):
        hub.load("abn_resnet110_cifar100")
    assert files(cache) == []


@pytest.mark.parametrize("place", [0, 1], ids=["folder", "file"])
def test_refusal_of_drive_names_the_page_and_the_path(drive, place, cache):
    error = gdown.exceptions.FileURLRetrievalError(
        "Too many users have viewed or downloaded this file recently"
    )
    drive[place].side_effect = error
    with pytest.raises(DownloadError) as raised:
        hub.load("abn_resnet110_cifar100")
    message = str(raised.value)
    assert "Too many users" in message
    assert FOLDER in message
    assert str(cache / "abn_resnet110_cifar100.pth.tar") in message
    assert files(cache) == []


def test_file_that_was_put_there_by_hand_is_taken(drive, cache, content):
    cache.mkdir(parents=True)
    (cache / "abn_resnet110_cifar100.pth.tar").write_bytes(content)
    hub.load("abn_resnet110_cifar100")
    assert not drive[1].called
    (cache / "abn_resnet110_cifar100.pth.tar").write_bytes(b"something else")
    with pytest.raises(ValueError, match="it is not the file that was first seen here"):
        hub.load("abn_resnet110_cifar100")


def test_bad_file_that_was_put_there_by_hand_is_named(drive, cache, content):
    cache.mkdir(parents=True)
    (cache / "abn_resnet110_cifar100.pth.tar").write_bytes(b"<!doctype html>")
    with pytest.raises(CheckpointError, match=r"abn_resnet110_cifar100\.pth\.tar is a web page"):
        hub.load("abn_resnet110_cifar100")
    (cache / "abn_resnet110_cifar100.pth.tar").write_bytes(content)  # a better one
    hub.load("abn_resnet110_cifar100")
