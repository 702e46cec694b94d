"""One model of every family in the table of coverage; `examples/experiments coverage` does them all."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import build_whole

from abn import AttentionBranch, CutError, wrap_backbone
from abn.modules.features import feature_map_of
from abn.retrofit.backbones import input_shape
from abn.retrofit.dry_run import dry_run
from abn.retrofit.last_layer import is_encoder

TABLE = Path(__file__).parents[2] / "docs" / "coverage.csv"


def smallest_of_each_family() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["parameters"].removesuffix(" M")))
    smallest: dict[tuple[str, bool], dict[str, str]] = {}
    for row in rows:
        smallest.setdefault((row["family"], bool(row["split"])), row)
    return sorted(smallest.values(), key=lambda row: row["model"])


def cases() -> list[Any]:
    params = []
    for row in smallest_of_each_family():
        if row["family"] != "timm/sequencer":  # its LSTMs take minutes on the meta device
            marks = [pytest.mark.slow] if row["family"].startswith("timm/") else []
            params.append(pytest.param(row, id=row["model"], marks=marks))
    return params


@pytest.mark.parametrize("row", cases())
def test_family_is_cut_as_the_table_says(row):
    # Shapes alone count, so there need be no numbers; this one family computes with some when it is built.
    with torch.device("cpu" if row["family"] == "torchvision/regnet" else "meta"):
        backbone = build_whole(row["model"])
        classes = {"num_classes": 1000} if is_encoder(backbone) else {}
        if not row["split"]:
            with pytest.raises(CutError, match="^" + re.escape(row["note"])):
                wrap_backbone(backbone, **classes)
            return
        if row["classifier"]:
            model = wrap_backbone(row["model"], start="pretrained", **classes)
            assert model.attention_branch.classifier.summary() == row["classifier"]
        else:
            model = wrap_backbone(row["model"], stage="dense", **classes)
            assert isinstance(model.attention_branch, AttentionBranch)
    shape = input_shape(backbone, None)
    features = feature_map_of(dry_run(model.feature_extractor, shape))
    assert model.built_with["split"] == row["split"]
    assert "×".join(map(str, features.shape[1:])) == row["features"]
    assert "×".join(map(str, dry_run(model, shape).attention_map.shape[2:])) == row["map"]
