"""Methods of other libraries that make maps of a plain network, from its last feature map."""

from collections.abc import Callable

import numpy as np
import torch
from pytorch_grad_cam import GradCAM as PytorchGradCAM
from pytorch_grad_cam import LayerCAM as PytorchLayerCAM
from pytorch_grad_cam import ScoreCAM as PytorchScoreCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM, LayerCAM, ScoreCAM

from experiments.photos.measures import BATCH

Method = Callable[[nn.Module, str, Tensor, Tensor], Tensor]
"""Takes a network, its layer, images (B, C, H, W) and classes (B,), and returns maps (B, 1, h, w)."""


def of_torchcam(method: type) -> Method:
    def maps(model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
        parts = []
        with method(model, layer) as explain:
            for batch, labels in zip(images.split(BATCH), classes.split(BATCH), strict=True):
                parts.append(explain(labels.tolist(), model(batch))[0].unsqueeze(1).detach())
        return torch.cat(parts)

    return maps


def of_pytorch_grad_cam(method: type[BaseCAM]) -> Method:
    def maps(model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
        parts = []
        with method(model, [model.get_submodule(layer)]) as explain:
            for batch, labels in zip(images.split(BATCH), classes.split(BATCH), strict=True):
                parts.append(explain(batch, [ClassifierOutputTarget(label) for label in labels.tolist()]))
        return torch.from_numpy(np.concatenate(parts)).unsqueeze(1)

    return maps


GRAD_CAM, LAYER_CAM = of_torchcam(GradCAM), of_torchcam(LayerCAM)
CAMS = {
    "Grad-CAM, torch-cam": GRAD_CAM,
    "Grad-CAM, pytorch-grad-cam": of_pytorch_grad_cam(PytorchGradCAM),
    "LayerCAM, torch-cam": LAYER_CAM,
    "LayerCAM, pytorch-grad-cam": of_pytorch_grad_cam(PytorchLayerCAM),
}
SCORE_CAMS = {
    "Score-CAM, torch-cam": of_torchcam(ScoreCAM),
    "Score-CAM, pytorch-grad-cam": of_pytorch_grad_cam(PytorchScoreCAM),
}
"""Methods that run the network once for each channel of the layer."""
