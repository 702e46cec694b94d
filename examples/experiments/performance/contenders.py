"""The contenders: ways to compute logits with a map."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from abn import ABN, AttentionBranch, wrap_backbone

Explain = Callable[[Tensor], Any]
"""Takes images, and returns logits and, except for the plain network, a map."""


@dataclass(frozen=True)
class Network:
    """A backbone for images of 224 × 224 pixels and 1000 classes."""

    name: str
    title: str
    layer: str
    """The layer whose output Grad-CAM and similar methods explain: the last stage."""

    def build(self) -> nn.Module:
        return torchvision.models.get_model(self.name).eval()


NETWORKS = {
    network.name: network
    for network in (
        Network("resnet18", "ResNet-18", "layer4"),
        Network("resnet50", "ResNet-50", "layer4"),
        Network("resnet152", "ResNet-152", "layer4"),
        Network("convnext_tiny", "ConvNeXt-T", "features.7"),
        Network("efficientnet_b0", "EfficientNet-B0", "features.8"),
    )
}


class StraightforwardBranch(AttentionBranch):
    """The attention branch as the paper draws it: the K×K convolution on every pixel, then the pool."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        responses = self.responses(features)
        attention_logits = self.classifier(responses).mean(dim=(2, 3))
        return attention_logits, self.map_norm(self.map_conv(responses)).sigmoid()


def official(backbone: nn.Module) -> ABN:
    """Builds a network that computes the function of the official network."""
    return wrap_backbone(backbone, map="convolution")


def straightforward(backbone: nn.Module) -> ABN:
    """Builds the network of :func:`official`, which here convolves before it pools."""
    model = official(backbone)
    model.attention_branch.__class__ = StraightforwardBranch
    return model


MODELS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": copy.deepcopy,
    "straightforward": straightforward,
    "official": official,
    "copy": partial(wrap_backbone, start="new"),
    "none": partial(wrap_backbone, start="new", stage="none"),
    "light": partial(wrap_backbone, start="new", stage="light"),
}
"""Networks that return their logits, and their map if they have one, from one forward."""
BRANCHED = tuple(row for row in MODELS if row != "plain")


def torchcam(method: str) -> Callable[[nn.Module, str], Explain]:
    def build(model: nn.Module, layer: str) -> Explain:
        from torchcam import methods

        explain = getattr(methods, method)(model, layer)

        def run(images: Tensor) -> Any:
            logits = model(images)
            return logits, explain(logits.argmax(dim=1).tolist(), logits)

        return run

    return build


def pytorch_grad_cam(method: str) -> Callable[[nn.Module, str], Explain]:
    def build(model: nn.Module, layer: str) -> Explain:
        import pytorch_grad_cam as library

        explain = getattr(library, method)(model=model, target_layers=[model.get_submodule(layer)])

        def run(images: Tensor) -> Any:
            maps = explain(input_tensor=images, targets=None)  # of the predicted classes
            logits = explain.outputs.detach()
            explain.outputs = None  # it would hold all activations until the next call
            return logits, maps

        return run

    return build


def captum(model: nn.Module, layer: str) -> Explain:
    from captum.attr import LayerGradCam

    explain = LayerGradCam(model, model.get_submodule(layer))

    def run(images: Tensor) -> Any:
        with torch.no_grad():
            logits = model(images)
        return logits, explain.attribute(images, target=logits.argmax(dim=1))

    return run


METHODS: dict[str, Callable[[nn.Module, str], Explain]] = {
    "torch-cam GradCAM": torchcam("GradCAM"),
    "torch-cam LayerCAM": torchcam("LayerCAM"),
    "pytorch-grad-cam GradCAM": pytorch_grad_cam("GradCAM"),
    "pytorch-grad-cam LayerCAM": pytorch_grad_cam("LayerCAM"),
    "Captum LayerGradCam": captum,
}
"""Methods that make a map of a plain network, for the class that it predicts."""
SCORE_CAM = "torch-cam ScoreCAM"
TITLES = {
    "plain": "plain backbone, no map",
    "straightforward": "straightforward ABN",
    "official": 'ABN, `map="convolution"`: the same function',
    "copy": "ABN",
    "none": 'ABN, `stage="none"`',
    "light": 'ABN, `stage="light"`',
    "checkpointed": 'ABN, `map="convolution"`, its stage checkpointed',
}
"""What the page calls a contender. Without an entry, the contender's name stands there."""
