"""The experiment of the page for edited maps: what it times, and the page that it writes."""

import timm
import torch
from experiments.editor import main as editor
from pages import needs_chromium


@needs_chromium
def test_every_stroke_is_timed(monkeypatch):
    monkeypatch.setattr(editor, "IMAGES", 2)
    monkeypatch.setattr(editor, "STROKES", 2)
    times = editor.answer_times(lambda: timm.create_model("test_resnet"))
    assert [len(times["opened"]), len(times["answered"])] == [2, 4]
    assert min(times["answered"]) > 0


def test_page_tells_median_and_worst():
    text = editor.page_text({"small": {"opened": [50.0, 70.0], "answered": [3.0, 4.0, 100.0]}})
    assert "| small | 60 ms | 4 ms | 100 ms |" in text


def test_strokes_follow_the_mask(monkeypatch):
    strokes = []
    monkeypatch.setattr(editor, "drag", lambda page, start, end: strokes.append((start, end)))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[16:, 8:17] = True
    editor.paint(None, mask)
    assert strokes == [((0.25, y), (0.5, y)) for y in (18 / 32, 22 / 32, 26 / 32, 30 / 32)]
