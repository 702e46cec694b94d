"""The backbone's classifier, read as evidence: what an attention branch starts from."""

import copy

import pytest
import torch
from architectures import ARCHITECTURES, build, image_size
from torch import nn
from torch.nn import functional as F

from abn import PooledClassifier, PretrainedAttentionBranch, find_splits, wrap_backbone
from abn.retrofit.cut import cut
from abn.retrofit.read_classifier import read_classifier

# Linear layers on all pixels, pools of maxima, or activations before the mean.
NOT_READABLE = ["torchvision/vgg11_bn", "torchvision/alexnet", "torchvision/squeezenet1_1"]


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_classifier_gives_the_logits_of_the_backbone(name):
    size = image_size(name)
    backbone = build(name).eval()
    for parameter in backbone.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)  # some classifiers start at zero
    parts = cut(backbone, (3, size, size), None)
    classifier = read_classifier(parts.head, parts.head_receives)
    if name in NOT_READABLE:
        assert classifier is None
        return
    features = torch.randn(3, *parts.head_receives)
    expected = parts.head(features)
    pooled = features.mean(dim=(2, 3))
    torch.testing.assert_close(classifier(pooled), expected, rtol=1e-4, atol=1e-4 * expected.std().item())


LAYERS = [
    [nn.Linear(8, 5)],
    [nn.LayerNorm(8), nn.Linear(8, 5)],
    [nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, 5)],
    [nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 5)],
    [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)],
    [nn.Linear(8, 16), nn.PReLU(), nn.Linear(16, 5)],
]


@pytest.mark.parametrize("layers", LAYERS, ids=lambda layers: " ".join(type(x).__name__ for x in layers))
def test_mean_evidence_differs_between_classes_as_the_logits_do(layers):
    """Up to a constant for each class: what the classifier makes of the biases of its layers."""
    classifier = PooledClassifier(layers).double()
    for layer in classifier.layers:
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    features = torch.randn(2, 8, 6, 6, dtype=torch.double)
    pooled = features.mean(dim=(2, 3))
    for label in range(5):
        shares = F.one_hot(torch.tensor([label, label]), 5).double()
        weights = classifier.weights(pooled, shares)
        evidence = (weights[:, :, None, None] * features).sum(dim=1)
        torch.testing.assert_close(evidence.mean(dim=(1, 2)), classifier(pooled)[:, label])


def test_weights_of_a_linear_classifier_are_its_rows():
    linear = nn.Linear(8, 5)
    weights = PooledClassifier([linear]).weights(torch.randn(2, 8), torch.eye(5)[[3, 1]])
    torch.testing.assert_close(weights, linear.weight[[3, 1]])


def test_weights_at_an_activation_of_zero_are_finite():
    classifier = PooledClassifier([nn.ReLU(), nn.Linear(8, 5)])
    assert classifier.weights(torch.zeros(2, 8), torch.eye(5)[:2]).isfinite().all()


class Backbone(nn.Module):
    """Eight channels at a stride of 4, and a head of its own."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = head

    def forward(self, images):
        return self.head(self.conv(self.stem(images)))


class Head(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.norm = nn.Linear(8, 5), nn.Linear(8, 5), nn.BatchNorm1d(8)
        self.wide = nn.Linear(8, 8)
        self.relu, self.sigmoid = nn.ReLU(inplace=True), nn.Sigmoid()
        self.unstable = nn.BatchNorm1d(8, track_running_stats=False)

    def unseen(self, pooled):
        hidden = self.wide(pooled)
        self.relu(hidden)
        return self.first(hidden)

    def larger(self, features):
        if features.shape[-1] < 2:
            raise AssertionError("too small")
        return features

    def forward(self, features):
        return self.function(self, features)


READABLE = {
    "mean of two": lambda self, x: (self.first(x.mean((2, 3))) + self.second(x.mean((2, 3)))) / 2,
    "batch norm": lambda self, x: self.first(self.norm(F.adaptive_avg_pool2d(x, 1).flatten(1))),
    "channels last": lambda self, x: self.first(x.permute(0, 2, 3, 1).mean((1, 2))),
    "hidden": lambda self, x: self.first(self.relu(self.wide(x.mean((2, 3))))),
}
OTHER = {
    "maximum": lambda self, x: self.first(x.amax((2, 3))),
    "mean of squares": lambda self, x: self.first((x * x).mean((2, 3))),
    "square of the mean": lambda self, x: self.first(x.mean((2, 3)) * x.mean((2, 3))),
    "rectified before the mean": lambda self, x: self.first(self.relu(x).mean((2, 3))),
    "past the activation": lambda self, x: self.first(
        self.relu(self.wide(x.mean((2, 3)))) + self.wide(x.mean((2, 3)))
    ),
    "normalised": lambda self, x: self.first(F.normalize(x.mean((2, 3)), dim=1)),
    "softmax": lambda self, x: self.first(x.mean((2, 3))).softmax(dim=1),
    "features beside the mean": lambda self, x: self.first(x.mean((2, 3)) + x[:, :, 0, 0]),
    "mean of the first row": lambda self, x: self.first(x.mean((2, 3)) + x[:, :, :1].mean((2, 3))),
    "statistics of the batch": lambda self, x: self.first(x.mean((2, 3)) - x.mean((2, 3)).mean(0)),
    "norm without averages": lambda self, x: self.first(self.unstable(x.mean((2, 3)))),
    "divided by the mean": lambda self, x: self.first(self.wide.bias / x.mean((2, 3))),
    "in place, unseen": lambda self, x: self.unseen(x.mean((2, 3))),
    "sigmoid": lambda self, x: self.first(self.sigmoid(self.wide(x.mean((2, 3))))),
    "runs on larger maps alone": lambda self, x: self.first(self.larger(x).mean((2, 3))),
    "mean over the rows alone": lambda self, x: self.first(x.mean(2).amax(2)),
}


@pytest.mark.parametrize("function", READABLE.values(), ids=READABLE)
@torch.no_grad()
def test_head_is_read_however_it_is_written(function):
    backbone = Backbone(Head(function)).eval()
    model = wrap_backbone(backbone, input_size=32)
    assert isinstance(model.attention_branch, PretrainedAttentionBranch)
    features = backbone.conv(backbone.stem(torch.randn(2, 3, 32, 32)))
    logits = model.attention_branch.classifier(features.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, backbone.head(features))


@pytest.mark.parametrize("function", OTHER.values(), ids=OTHER)
def test_head_that_is_more_than_that_starts_anew_with_a_warning(function):
    backbone = Backbone(Head(function)).eval()
    with pytest.warns(UserWarning, match=r"starts from random weights, .* Give start='new'"):
        model = wrap_backbone(backbone, input_size=32)
    assert not isinstance(model.attention_branch, PretrainedAttentionBranch)
    with pytest.raises(ValueError, match="start is 'pretrained', expected 'new' or none: the backbone's"):
        wrap_backbone(backbone, input_size=32, start="pretrained")
    assert str(find_splits(backbone, input_size=32)).endswith("new heads, which need training")


def test_head_that_ends_with_the_mean_counts_its_channels():
    backbone = Backbone(Head(lambda self, x: x.mean((2, 3)))).eval()
    model = wrap_backbone(backbone, input_size=32)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.attention_branch.classifier(torch.eye(8)), torch.eye(8))
    assert model.class_map(images, 7).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("layers", LAYERS, ids=lambda layers: " ".join(type(x).__name__ for x in layers))
def test_evidence_by_calls_of_the_layers_is_the_one_by_their_weights(layers):
    """Where a layer has a hook, its weight may be elsewhere until the hook has run."""
    classifier = PooledClassifier(copy.deepcopy(layers)).double()
    for parameter in classifier.parameters():
        nn.init.normal_(parameter)
    features, shares = torch.randn(2, 8, 6, 6).double(), torch.rand(2, 5).double()
    pooled = features.mean(dim=(2, 3))
    expected = (classifier.weights(pooled, shares)[:, :, None, None] * features).sum(dim=1)
    evidence = (shares[:, :, None, None] * classifier.evidence(pooled, features)).sum(dim=1)
    torch.testing.assert_close(evidence, expected)

    branch = PretrainedAttentionBranch(classifier)
    _, by_weights = branch(features)
    for layer in classifier.layers:
        layer.register_forward_pre_hook(lambda layer, inputs: None)
    assert not classifier.is_plain()
    _, by_calls = branch(features)
    torch.testing.assert_close(by_calls.float(), by_weights.float())  # in which maps are made


@pytest.mark.parametrize("layers", LAYERS, ids=lambda layers: " ".join(type(x).__name__ for x in layers))
def test_centred_classes_share_nothing_and_their_probabilities_are_as_before(layers):
    classifier = copy.deepcopy(PooledClassifier(layers)).float()
    pooled = torch.randn(4, 8)
    before = classifier(pooled).softmax(dim=1)
    classifier.centre()
    torch.testing.assert_close(classifier(pooled).softmax(dim=1), before)
    everything = classifier.weights(pooled, torch.ones(4, 5))
    torch.testing.assert_close(everything, torch.zeros(4, 8), rtol=0, atol=1e-5)


def test_a_single_output_is_not_centred_away():
    classifier = PooledClassifier([nn.Linear(8, 1)])
    classifier.centre()
    assert classifier.layers[0].weight.abs().min() > 0


def test_new_classes_of_a_pretrained_backbone_start_centred_and_old_ones_stay():
    backbone = build("timm/test_resnet")
    new = wrap_backbone(backbone, num_classes=3).attention_branch.classifier.layers[-1].weight
    torch.testing.assert_close(new.sum(dim=0), torch.zeros(new.shape[1]), rtol=0, atol=1e-6)
    kept = wrap_backbone(backbone).attention_branch.classifier.layers[-1].weight
    torch.testing.assert_close(kept, backbone.get_classifier().weight)


def test_summary_names_the_layers():
    classifier = PooledClassifier([nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5)])
    assert classifier.summary() == "LayerNorm(8), Linear(8, 16), GELU(), Linear(16, 5)"
    assert classifier.out_channels == 5


def test_layer_that_overwrites_its_input_is_refused():
    with pytest.raises(ValueError, match="ReLU works in place, expected layers that leave their input"):
        PooledClassifier([nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 5)])


def test_map_that_is_not_made_of_evidence_is_refused():
    with pytest.raises(ValueError, match=r"map is 'convolution', which needs layers that no backbone has"):
        PretrainedAttentionBranch(PooledClassifier([nn.Linear(8, 5)]), map="convolution")


def test_layers_without_a_linear_one_are_no_classifier():
    with pytest.raises(ValueError, match="without a linear layer"):
        PooledClassifier([nn.LayerNorm(4)])
