"""Which layer makes the logits, so that `num_classes=` replaces this one and no other."""

import warnings

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from abn import wrap_backbone
from abn.retrofit.last_layer import ending_of


class Network(nn.Module):
    """Features of 8 channels and, in `finish`, what makes outputs of them."""

    def __init__(self, finish) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.finish = finish

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self, self.conv(images).relu())


def mean(features: Tensor) -> Tensor:
    return features.mean((2, 3))


FINISHES = {
    "a linear layer": (lambda net, x: net.fc(mean(x)), "fc"),
    "behind a hidden layer": (lambda net, x: net.fc(net.hidden(mean(x)).relu()), "fc"),
    "dropped out, scaled": (
        lambda net, x: F.dropout(net.fc(mean(x)), 0.5, net.training) * 3 + net.scale,
        "fc",
    ),
    "probabilities": (lambda net, x: net.fc(mean(x)).softmax(1), "fc"),
    "at each pixel": (lambda net, x: mean(net.pointwise(x)), "pointwise"),
    "at each pixel, activated": (lambda net, x: mean(net.pointwise(x).relu()), "pointwise"),
    "at each pixel, the highest": (lambda net, x: net.pointwise(x).amax((2, 3)), "pointwise"),
    "a product with a weight": (lambda net, x: mean(x) @ net.fc.weight.T, ""),
    "a 3×3 convolution": (
        lambda net, x: mean(F.conv2d(x, net.conv.weight.mean(1, True).expand(-1, 8, 3, 3))),
        "",
    ),
    "two layers": (lambda net, x: net.fc(mean(x)) + net.hidden(mean(x)), ""),
    "two layers, side by side": (lambda net, x: torch.cat([net.fc(mean(x)), net.hidden(mean(x))], dim=1), ""),
    "bounded": (lambda net, x: 30 * torch.tanh(net.fc(mean(x)).clamp(-50, 50) / 30), "fc"),
    "with a temperature": (lambda net, x: net.fc(mean(x)) * net.scale[None, :1], "fc"),
    "at each pixel, summed": (lambda net, x: net.pointwise(x).sum((2, 3)), "pointwise"),
    "pooled features of a convolution": (lambda net, x: mean(x), None),
    "a part": (lambda net, x: net.fc(mean(x))[:, :5], "fc"),
    "an activation": (lambda net, x: net.hidden(mean(x)).relu(), None),
    "an activation in place": (lambda net, x: net.hidden(mean(x)).relu_(), None),
    "a norm": (lambda net, x: F.layer_norm(net.hidden(mean(x)), (8,)), None),
    "pooled features": (lambda net, x: mean(net.norm(net.pointwise(x)).relu()), None),
    "pooled features, added up": (lambda net, x: mean((net.pointwise(x) + x).relu()), None),
}


@pytest.mark.parametrize(("finish", "expected"), FINISHES.values(), ids=FINISHES)
def test_layer_is_found_by_what_becomes_of_its_output(finish, expected):
    assert ending_of(Network(finish), (3, 8, 8)).layer == expected


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (lambda logits: logits.softmax(1), True),
        (lambda logits: logits.sigmoid().flatten(1), True),
        (lambda logits: logits.log_softmax(1), False),  # its softmax is that of the logits
        (lambda logits: logits * logits.sigmoid(), False),
        (lambda logits: logits, False),
    ],
)
def test_probabilities_in_place_of_logits_are_said(finish, expected):
    backbone = Network(lambda net, features: finish(net.fc(mean(features))))
    assert ending_of(backbone, (3, 8, 8)).probabilities == expected
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        wrap_backbone(backbone, input_size=32, start="new")
    assert (
        any("returns probabilities, but logits are expected" in str(each.message) for each in said)
        == expected
    )


def without_last(network: nn.Module) -> nn.Module:
    network.classifier = network.classifier[:-1]
    return network


def without_fc(network: nn.Module) -> nn.Module:
    network.fc = nn.Identity()
    return network


HEADLESS = {
    "vgg11": lambda: without_last(torchvision.models.vgg11()),
    "alexnet": lambda: without_last(torchvision.models.alexnet()),
    "mobilenet_v3_small": lambda: without_last(torchvision.models.mobilenet_v3_small()),
    "convnext_tiny": lambda: without_last(torchvision.models.convnext_tiny()),
    "resnet18": lambda: without_fc(torchvision.models.resnet18()),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_hidden_layer_is_not_replaced_where_the_classifier_was_taken_away(name):
    backbone = HEADLESS[name]()
    with torch.device("meta"):
        backbone = backbone.to("meta")
        with pytest.raises(
            ValueError, match=r"no linear layer or 1×1 convolution makes the outputs of .*nn\.Linear"
        ):
            wrap_backbone(backbone, num_classes=10)


@pytest.mark.filterwarnings("ignore:the attention branch starts from random weights")
@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_features_that_are_taken_for_classes_are_said(name):
    with pytest.warns(
        UserWarning, match="ends without a linear layer: its .* outputs are taken for classes"
    ) as said:
        wrap_backbone(HEADLESS[name]())
    assert said[0].filename == __file__


def test_backbone_of_timm_without_a_classifier_gets_a_new_one_or_is_refused():
    backbone = timm.create_model("test_resnet", num_classes=0)
    assert wrap_backbone(backbone, num_classes=3)(torch.randn(2, 3, 64, 64)).perception_logits.shape == (2, 3)
    with pytest.raises(
        ValueError, match="ResNet was built with num_classes=0, so it has no classifier: give"
    ):
        wrap_backbone(backbone)
    with pytest.raises(ValueError, match="ByobNet was built with num_classes=0"):
        wrap_backbone("timm/resnet50_clip_gap")
    backbone.fc = nn.Linear(backbone.num_features, 5)  # a head of one's own
    assert wrap_backbone(backbone)(torch.randn(2, 3, 64, 64)).perception_logits.shape == (2, 5)
