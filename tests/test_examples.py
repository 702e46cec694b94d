"""The examples run as printed in the README, here shortened."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_quickstart_prints_its_figures_and_writes_its_picture(tmp_path):
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--epochs", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    figures = dict(
        line.rsplit("  ", 1) for line in result.stdout.replace("  (chance", " (chance").splitlines()
    )
    names = [name.strip() for name in figures]
    assert names == [
        "test images",
        "accuracy, attention branch",
        "accuracy, perception branch",
        "map's peak on the digit",
        "image, map and overlay",
    ]
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size == (8 * 192 + 7 * 8, 24 + 3 * 192 + 2 * 8)
    assert [path.name for path in tmp_path.iterdir()] == ["attention.png"]
