"""The command ``python -m abn edit``."""

import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

from abn.__main__ import main


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@contextmanager
def ended(process):
    """Ends the process, also if a test fails before."""
    try:
        yield
    finally:
        process.kill()


def edit(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["abn", "edit", *map(str, words), "--no-browser"])
    main()


def test_command_prints_its_address_and_serves_until_it_is_interrupted(photos, edits, saved):
    words = ["edit", photos, "--model", saved, "--out", edits, "--port", "0", "--no-browser"]
    command = [sys.executable, "-m", "abn", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, ended(process):
        line = process.stdout.readline()
        address = re.search(r"5 images, edits in .*edits: (http://127\.0\.0\.1:\d+/\?token=\S+)", line)[1]
        with urlopen(address) as page:
            assert b"<title>Edit attention</title>" in page.read()
        with urlopen(address.replace("/?", "/api/images/0?")) as image:
            assert b"cat/0.png" in image.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert not edits.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--masks", "missing"], "--masks is missing, but there is no such folder or file"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--host", ""], "host is empty"),
        (["--port", "99999"], "cannot listen on 127.0.0.1, port 99999"),
        (["--out", "photos"], "the folder of the images: take another"),
        (["--device", "nonsense"], "--device is 'nonsense'"),
    ],
)
def test_what_cannot_work_is_refused(monkeypatch, photos, edits, saved, words, message):
    monkeypatch.chdir(photos.parent)
    with pytest.raises(SystemExit, match=re.escape(message)):
        edit(monkeypatch, photos, "--model", saved, "--out", edits, *words)
    assert not edits.exists()


def test_port_in_use_is_told(monkeypatch, photos, edits, saved):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port {port}: .* --port takes another"):
            edit(monkeypatch, photos, "--model", saved, "--out", edits, "--port", port)


def test_missing_packages_are_named(monkeypatch, photos, edits, saved):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "abn.editor.server", raising=False)
    with pytest.raises(SystemExit, match=r"uvicorn.*pip install 'abn\[edit\]'"):
        edit(monkeypatch, photos, "--model", saved, "--out", edits)
