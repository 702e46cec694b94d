"""Tools that expect one tensor of logits, on `LogitsOnly`: ABN's own map beside those that they compute."""

import pytest
import torch
from architectures import FAMILIES, build
from torch import nn

from abn import LogitsOnly, wrap_backbone


@pytest.fixture
def view() -> LogitsOnly:
    return LogitsOnly(wrap_backbone(build("timm/test_resnet"), num_classes=4).eval())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("name", FAMILIES)
def test_view_returns_the_logits_of_the_perception_branch(name):
    model = wrap_backbone(build(name), num_classes=4).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(LogitsOnly(model)(images), model(images).perception_logits)


def test_view_shares_its_network(view):
    assert next(view.parameters()) is next(view.model.parameters())
    view.train()
    assert view.model.training


def grad_cam_by_hand(view: LogitsOnly, layer: nn.Module, images: torch.Tensor, target: int) -> torch.Tensor:
    """ReLU of the channels' sum, each weighted by the mean of its gradient (Selvaraju et al., ICCV 2017)."""
    activations = []
    handle = layer.register_forward_hook(lambda module, inputs, output: activations.append(output))
    logits = view(images)[:, target].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(logits, activations[0])
    return (gradient.mean((2, 3), keepdim=True) * activations[0]).sum(1).relu().detach()


@pytest.fixture
def target(view, images) -> int:
    """A class for which Grad-CAM's map is not all zeros."""
    maps = [grad_cam_by_hand(view, view.model.perception_branch.tail.layer4, images, k) for k in range(4)]
    (target, *_) = [k for k, cam in enumerate(maps) if (cam.amax((1, 2)) > 0).all()]
    return target


def test_captum_explains_the_view(view, images, target):
    captum = pytest.importorskip("captum.attr")
    layer = view.model.perception_branch.tail.layer4
    theirs = captum.LayerGradCam(view, layer).attribute(images, target=target, relu_attributions=True)
    torch.testing.assert_close(theirs.squeeze(1), grad_cam_by_hand(view, layer, images, target))


def test_torch_cam_explains_the_view(view, images, target):
    methods = pytest.importorskip("torchcam.methods")
    layer = view.model.perception_branch.tail.layer4
    with methods.GradCAM(view, target_layer=layer) as extractor:
        (theirs,) = extractor([target] * len(images), view(images), normalized=False)
    torch.testing.assert_close(theirs, grad_cam_by_hand(view, layer, images, target))
