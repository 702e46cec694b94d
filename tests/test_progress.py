"""Progress: lines in a log, where there is no terminal."""

from abn.progress import progress


def test_a_log_gets_lines(capsys):
    with progress(3, " images") as bar:
        for _ in range(3):
            bar.update()
    shown = capsys.readouterr().err
    assert "\r" not in shown
    first, *_, last = shown.splitlines()
    assert "0/3" in first
    assert "3/3" in last
    assert len(shown.splitlines()) <= 3
