"""The examples run as printed in the README, here shortened."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import results
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
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
        "share of the map on the digit",
        "image, map and overlay",
    ]
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size == (8 * 192 + 7 * 8, 22 + 3 * 192 + 2 * 8)
    assert [path.name for path in tmp_path.iterdir()] == ["attention.png"]


@pytest.mark.slow
def test_coverage_writes_its_tables_and_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, str(EXAMPLES / "experiments"), "coverage", "--directory", str(tmp_path)]
    command += ["--workers", "1"]
    command += ["--limit", "0.8", "--models"]
    for pattern in ("timm/test_resnet", "timm/test_[rm]*"):
        subprocess.run([*command, pattern], capture_output=True, text=True, check=True)
        with (tmp_path / "coverage.csv").open(newline="") as file:
            rows = {row["model"]: row for row in csv.DictReader(file)}
        if len(rows) == 1:  # so that a row which is made again would be seen
            text = (tmp_path / "coverage.csv").read_text()
            (tmp_path / "coverage.csv").write_text(text.replace("64×64", "65×65"))
    resnet, maxvit = rows["timm/test_resnet"], rows["timm/test_maxvit"]
    assert (resnet["split"], resnet["features"], resnet["stage"]) == ("layer3", "192×10×10", "dense")
    assert (resnet["equal"], resnet["gradients"], resnet["image"]) == ("yes", "all", "65×65")
    assert (float(resnet["dense error"]), resnet["classifier"]) == (0, "Linear(96, 1000)")
    assert (maxvit["split"], maxvit["note"]) == ("stages.2", "not run: above the limit of parameters")
    assert (
        "| timm/resnet | 1 | 1 | 1 | 1 | 1 | 0 | 0 | 1 of 1 | 1 |" in (tmp_path / "coverage.md").read_text()
    )


def test_comparison_tells_mean_deviation_and_worst_of_the_last_epochs():
    def log(**accuracies):
        last = {f"validation_top1_{branch}": str(value) for branch, value in accuracies.items()}
        return [dict.fromkeys(last, "1.0"), last]

    plain = [log(plain=0.9), log(plain=0.8)]
    abn = [log(attention=0.5, perception=0.7), log(attention=0.6, perception=0.7)]
    page = results.report(plain, abn, [(2, 3), (2, 4), (2, 8)], epochs=2)
    assert "| 0 | 90.0 | 50.0 | 70.0 |" in page
    assert "| 1 | 80.0 | 60.0 | 70.0 |" in page
    assert "| **mean** | 85.0 | 55.0 | 70.0 |" in page
    assert "| **standard deviation** | 7.1 | 7.1 | 0.0 |" in page
    assert "| **worst** | 80.0 | 50.0 | 70.0 |" in page
    assert "median 2.00, from 1.50 to 4.00" in page
