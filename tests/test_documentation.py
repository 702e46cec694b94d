"""The documentation: every public name is in the reference, and the notebooks run."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import abn

DOCS = Path(__file__).parents[1] / "docs"


def test_every_public_name_is_in_the_reference():
    documented = re.findall(
        r"^::: (abn\.\S+)$", "".join(path.read_text() for path in DOCS.glob("reference/*.md")), re.M
    )
    assert len(documented) == len(set(documented))
    public = {f"abn.{name}" for name in abn.__all__ if not isinstance(getattr(abn, name), types.ModuleType)}
    for module in (abn.hub, abn.metrics, abn.visualize):
        public |= {f"{module.__name__}.{name}" for name in module.__all__}
    assert public - set(documented) - {"abn.visualize.Sign", "abn.metrics.Replacement"} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/get_started.md"])
def test_first_python_of_a_page_runs(page, tmp_path, monkeypatch):
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), "mobilenet_v2-b0353104.pth")
    Image.new("RGB", (320, 240)).save("photo.jpg")
    exec(code.replace('weights="DEFAULT"', 'backbone_weights="mobilenet_v2-b0353104.pth"'), names := {})
    if page == "README.md":
        assert (tmp_path / "map.png").is_file()
    else:
        assert names["attention_map"].shape == (2, 1, 14, 14)


@pytest.fixture
def shorter(tmp_path, monkeypatch):
    """Small stand-ins for what notebooks download, and where they write."""
    monkeypatch.chdir(tmp_path)
    weights = "mobilenet_v2-b0353104.pth"  # this name tells the classes
    torch.save(torchvision.models.mobilenet_v2().state_dict(), weights)
    cells = types.ModuleType("elpv_dataset.utils")
    shares = np.tile([0.0, 1.0, 1 / 3], 20)
    cells.load_dataset = lambda: (np.zeros((60, 30, 30), dtype=np.uint8), shares, ["mono"] * 60)
    monkeypatch.setitem(sys.modules, "elpv_dataset", types.ModuleType("elpv_dataset"))
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", cells)
    return {
        'weights="DEFAULT"': f'backbone_weights="{weights}"',
        '"timm/tf_efficientnet_lite0", pretrained=True': '"timm/test_resnet"',
        "range(4)": "range(1)",
        "450": "30",
        "[:600]": "[:40]",
        "600": "40",
    }


@pytest.mark.parametrize("name", ["retrofit", "finetune", "edit"])
def test_notebook_runs(name, shorter, capsys):
    cells = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for long, short in shorter.items():
                source = source.replace(long, short)
            assert "pretrained=True" not in source
            assert 'weights="DEFAULT"' not in source
            exec(source, names)
    assert capsys.readouterr().out.strip()
    if name == "finetune":
        assert abn.hub.load("cells").classes == ("sound", "defective")
    if name == "edit":
        assert list(abn.edits.Edits("edits")) == ["temple.jpg"]
