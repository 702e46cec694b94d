"""What ``python -m abn`` shows. Its commands are tested beside what they do."""

import sys

import pytest

from abn import hub
from abn.__main__ import main


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["abn", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_without_a_command_all_are_shown_with_an_example(monkeypatch, capsys):
    assert call(monkeypatch) == 0
    shown = capsys.readouterr().out
    for command in ("explain", "edit", "convert", "models"):
        assert f"python -m abn {command}" in shown


@pytest.mark.parametrize("command", ["explain", "edit", "convert", "models"])
def test_each_command_has_help(monkeypatch, capsys, command):
    assert call(monkeypatch, command, "--help") == 0
    assert f"python -m abn {command}" in capsys.readouterr().out


def test_published_weights_are_listed(monkeypatch, capsys):
    assert call(monkeypatch, "models") == 0
    shown = capsys.readouterr().out
    assert all(weights.name in shown for weights in hub.available())
