"""Networks of one's own: what `wrap_backbone` carries, and what it says where it cannot."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from abn import CutError, find_splits, wrap_backbone


class Plain(nn.Module):
    """The smallest network that can be cut; the classes below change its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 10)
        self.register_buffer("gain", torch.full((1,), 1.5))

    def forward(self, images):
        return self.fc(self.c2(self.c1(images)).mean((2, 3)))


def assert_equals_plain(backbone: nn.Module, **arguments: object) -> nn.Module:
    model = wrap_backbone(backbone, **arguments)
    images = torch.randn(2, 3, 32, 32)
    output = model.eval()(images, attention_map=torch.ones(1, 1, 1))
    assert torch.equal(output.perception_logits, backbone.eval()(images))
    return model


def test_expressions_on_buffers_keep_the_buffer():
    class Scaled(Plain):
        def forward(self, images):
            return self.fc((self.c2(self.c1(images)) * self.gain.exp()).mean((2, 3)))

    model = assert_equals_plain(Scaled())
    assert "perception_branch.tail.gain" in model.state_dict()


class FromBatchSize(Plain):
    def forward(self, images):
        batch, *_ = images.shape[0], images.shape[1]
        pooled = self.c2(self.c1(images)).mean((2, 3))
        return self.fc(pooled.view(batch, -1)) + self.fc(pooled.reshape(images.size(0), 8))


class FromSizeOfASubmodule(Plain):
    class Fold(nn.Module):
        def forward(self, features):
            return features.flatten(2), features.shape[2:]

    def __init__(self) -> None:
        super().__init__()
        self.fold = self.Fold()

    def forward(self, images):
        flat, size = self.fold(self.c1(images))
        return self.fc(self.c2(flat.view(images.shape[0], -1, *size)).mean((2, 3)))


class SharesWeights(Plain):
    def forward(self, images):
        features = self.c2(self.c1(images))
        return self.fc(self.c2(features).mean((2, 3)))


class NestedClassifier(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.ModuleDict({"classifier": nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 10))})

    def forward(self, images):
        features = nn.functional.max_pool2d(torch.relu(self.c1(images)), 2)
        return self.head["classifier"](nn.functional.adaptive_avg_pool2d(self.c2(features), 1))


class ListsOfFeatures(Plain):
    class Relu(nn.Module):
        def forward(self, features):
            for i, feature in enumerate(features):
                features[i] = feature.relu()
            return features

    def __init__(self) -> None:
        super().__init__()
        self.relus = self.Relu()

    def forward(self, images):
        features = self.c1(images)
        first, second = self.relus([features, -features])
        return self.fc(self.c2(first - second).mean((2, 3)))


class BodyWithoutATrace(Plain):
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.stages = nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)

        def forward(self, features):
            return self.stages(self.stem(features) if torch.is_tensor(features) else features)

    def __init__(self) -> None:
        super().__init__()
        self.body = self.Body()  # would be opened, but its trace loses the stem

    def forward(self, images):
        return self.fc(self.body(self.c1(images)).mean((2, 3)))


class TakesTwoOfThreeChannels(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(2, 8, 3, 2, 1)

    def forward(self, images):
        red_and_blue = images[:, torch.tensor([True, False, True])]  # in the trace a constant, with values
        return self.fc(self.c2(self.c1(red_and_blue)).mean((2, 3)))


@pytest.mark.parametrize(
    "backbone",
    [
        FromBatchSize,
        FromSizeOfASubmodule,
        SharesWeights,
        NestedClassifier,
        ListsOfFeatures,
        BodyWithoutATrace,
        TakesTwoOfThreeChannels,
    ],
)
def test_networks_of_ones_own_are_cut(backbone):
    plain = backbone().eval()
    model = assert_equals_plain(plain)
    for batch, size in ((1, 32), (3, 48)):  # nothing of the rehearsal's own batch is left
        images = torch.randn(batch, 3, size, size)
        assert torch.equal(model(images, attention_map=torch.ones(1, 1, 1)).perception_logits, plain(images))
    assert wrap_backbone(backbone(), num_classes=7)(torch.randn(2, 3, 32, 32)).perception_logits.shape == (
        2,
        7,
    )


def test_weights_shared_by_both_sides_of_the_cut_stay_one():
    model = wrap_backbone(SharesWeights(), split="c2 as c2")
    assert model.feature_extractor.c2.weight is model.perception_branch.tail.c2.weight


def test_frozen_stem_stays_frozen_and_the_rest_learns():
    backbone = Plain()
    backbone.c1.requires_grad_(False)
    model = wrap_backbone(backbone)
    model(torch.randn(2, 3, 32, 32)).perception_logits.sum().backward()
    assert model.feature_extractor.c1.weight.grad is None
    assert model.perception_branch.tail.c2.weight.grad is not None


class FiveRows(Plain):
    """Has as many rows in a weight as the rehearsal has images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 8))

    def forward(self, images):
        pooled = self.c2(self.c1(images)).mean((2, 3))
        return nn.functional.linear(pooled, self.weight) / self.weight.shape[0]


class Windows(Plain):
    """Lays its windows into the batch for a while."""

    def forward(self, images):
        features = self.c1(images)
        batch, channels = features.shape[0], features.shape[1]
        windows = features.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)
        windows = self.c2(windows.reshape(-1, channels, 8, 8))
        return self.fc(windows.reshape(batch, -1, 8, 4, 4).mean((1, 3, 4)))


class HasATrainingFlag(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.training_flag = nn.Identity()

    def forward(self, images):
        features = self.training_flag(self.c2(self.c1(images))).mean((2, 3))
        return self.fc(nn.functional.dropout(features, training=self.training))


@pytest.mark.parametrize("backbone", [FiveRows, Windows, HasATrainingFlag])
def test_any_number_and_size_of_images_is_classified_like_in_the_backbone(backbone):
    plain = backbone().eval()
    model = wrap_backbone(plain, input_size=16).eval()  # where there is one window alone
    for batch, size in ((2, 16), (3, 32), (5, 48)):
        images = torch.randn(batch, 3, size, size)
        output = model(images, attention_map=torch.ones(1, 1, 1))
        assert torch.equal(output.perception_logits, plain(images))
        assert output.attention_logits.shape == output.perception_logits.shape
        assert len(output.attention_map) == batch


class Spectrograms(nn.Module):
    """Lowers one dimension alone, until there are as many channels as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 8, 3, (4, 1), 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(self.c2(self.c1(images)).mean((2, 3)))


class ChannelsLast(nn.Module):
    """Has as many channels as rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)
        self.mix, self.fc = nn.Linear(8, 8), nn.Linear(8, 10)

    def mixed(self, images):
        return self.mix(self.stem(images).permute(0, 2, 3, 1))

    def forward(self, images):
        return self.fc(self.down(self.mixed(images).permute(0, 3, 1, 2)).mean((2, 3)))


@pytest.mark.parametrize(
    ("backbone", "shape", "split", "features"),
    [
        (Spectrograms(), (1, 32, 32), "c1", (8, 8, 32)),
        (ChannelsLast(), (3, 32, 32), "mix", (8, 8, 8)),
        (ChannelsLast(), (3, 32, 64), "mix", (8, 8, 16)),
    ],
)
def test_layout_is_not_taken_from_the_proportions(backbone, shape, split, features):
    model = wrap_backbone(backbone, split=split, input_size=shape).eval()
    images = torch.randn(2, *shape)
    assert model.feature_extractor(images).shape[1:] == features
    expected = backbone.c1(images) if split == "c1" else backbone.mixed(images).permute(0, 3, 1, 2)
    assert torch.equal(model.feature_extractor(images), expected)


def test_stage_that_reads_what_an_earlier_part_stored_is_refused():
    class Storing(Plain):
        class Store(nn.Module):
            kept = None

            def forward(self, features):
                self.kept = features
                return features

        class Read(nn.Module):
            def __init__(self, store: nn.Module) -> None:
                super().__init__()
                self.store = [store]

            def forward(self, features):
                return features + self.store[0].kept.mean()

        def __init__(self) -> None:
            super().__init__()
            self.store = self.Store()
            self.read = self.Read(self.store)

        def forward(self, images):
            return self.fc(self.read(self.c2(self.store(self.c1(images)))).mean((2, 3)))

    with pytest.raises(CutError, match=r"does not run on its own, .*\n.*stage='none'"):
        wrap_backbone(Storing(), split="store")


class Around(nn.Module):
    """What the errors for other inputs and outputs tell to write: images in, logits out."""

    def __init__(self, network: nn.Module, forward) -> None:
        super().__init__()
        self.network = network
        self.call = forward

    def forward(self, images):
        return self.call(self.network, images)


@pytest.mark.parametrize("num_classes", [None, 7])
@pytest.mark.parametrize(
    ("network", "forward", "channels"),
    [
        ("two outputs", lambda network, images: network(images)[1], 3),
        ("dictionary", lambda network, images: network(images)["logits"], 3),
        ("two inputs", lambda network, images: network(images[:, :3], images[:, 3:]), 4),
    ],
)
def test_module_around_a_network_with_other_inputs_or_outputs_is_cut(network, forward, channels, num_classes):
    class Dictionary(Plain):
        def forward(self, images):
            return {
                "features": (features := self.c1(images)),
                "logits": self.fc(self.c2(features).mean((2, 3))),
            }

    inner = {"two outputs": TwoOutputs, "dictionary": Dictionary, "two inputs": TwoInputs}[network]()
    backbone = Around(inner, forward).eval()
    model = wrap_backbone(backbone, input_size=(channels, 32, 32), num_classes=num_classes)
    images = torch.randn(2, channels, 32, 32)
    logits = model(images, attention_map=torch.ones(1, 1, 1)).perception_logits
    assert torch.equal(logits, backbone(images)) if num_classes is None else logits.shape == (2, 7)


class Isotropic(nn.Module):
    """Eight blocks at one resolution, which nothing lowers after the stem."""

    def __init__(self, depth: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU()) for _ in range(depth))
        )
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(self.blocks(self.stem(images)).mean((2, 3)))


def test_network_of_one_resolution_is_cut_where_its_last_quarter_begins():
    (default,) = [split for split in find_splits(Isotropic(), input_size=32) if split.default]
    assert default.name == "blocks.5"  # two of ten layers lie behind it, three behind the block before
    model = assert_equals_plain(Isotropic())
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.attention_branch.stage.modules()) == 2


def test_network_without_a_stage_behind_its_last_feature_map_gets_none():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert isinstance(assert_equals_plain(backbone).attention_branch.stage, nn.Identity)


@pytest.mark.parametrize(
    ("wrapper", "attribute"),
    [(nn.DataParallel, "module"), (lambda network: torch.compile(network, backend="eager"), "_orig_mod")],
)
def test_compiled_or_distributed_backbone_is_refused(wrapper, attribute):
    with pytest.raises(TypeError, match=rf"expected the network in it: hand over backbone\.{attribute}"):
        wrap_backbone(wrapper(Plain()))


def test_scripted_backbone_is_refused():
    with pytest.raises(TypeError, match=r"is a ScriptModule, .* hand over the module behind it"):
        wrap_backbone(torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())))


def test_lazy_backbone_is_refused():
    with pytest.raises(TypeError, match="has lazy layers: run it once"):
        wrap_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(10)))


@pytest.mark.parametrize("num_classes", [None, 7])
def test_head_that_returns_a_dictionary_is_told_what_to_do(num_classes):
    class Head(nn.Linear):
        def forward(self, features):
            return {"logits": super().forward(features)}

    backbone = Plain()
    backbone.fc = Head(8, 10)
    with pytest.raises(CutError, match=r"returns a dict, expected one tensor of logits: .*\n.*\['logits'\]"):
        wrap_backbone(backbone, num_classes=num_classes)


def test_layers_that_keep_their_weights_in_lists_get_their_own():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
            self.rows = nn.LSTM(16, 10)

        def forward(self, images):
            features = self.conv2(self.conv1(images)).mean(dim=3)  # (B, 16, h)
            return self.rows(features.permute(2, 0, 1))[0][-1]

    backbone = Recurrent()
    images = torch.randn(2, 3, 32, 32)
    expected = backbone(images)
    model = wrap_backbone(backbone, input_size=32)
    given = {parameter.data_ptr() for parameter in backbone.parameters()}
    rows = model.perception_branch.tail.rows
    assert given.isdisjoint(parameter.data_ptr() for parameter in [*model.parameters(), *rows._flat_weights])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(backbone(images), expected)


def test_backbone_that_cannot_be_copied_is_refused():
    backbone = Plain()
    backbone.weights = backbone.c1.weight * 2
    with pytest.raises(TypeError, match=r"Plain cannot be copied by copy\.deepcopy: .*\n.*parametrizations"):
        wrap_backbone(backbone)


class Extractor:
    """As those of class activation maps, which keep what a layer returned."""

    def __init__(self, layer: nn.Module, partly: bool) -> None:
        hook = partial(self.keep, index=0) if partly else self.keep
        layer.register_forward_hook(hook)

    def keep(self, module, inputs, output, index=0) -> None:
        self.kept = output


@pytest.mark.parametrize("partly", [False, True])
def test_backbone_that_a_tool_listens_to_is_refused(partly):
    backbone = Plain()
    tool = Extractor(backbone.c1, partly)
    backbone(torch.randn(1, 3, 32, 32))
    with pytest.raises(
        TypeError, match="c1 has a hook of Extractor: remove the hooks of such a tool before wrapping"
    ):
        wrap_backbone(backbone)
    assert tool.kept.shape[1] == 8


def test_backbone_with_a_compiled_part_is_refused():
    backbone = Plain()
    backbone.fc = torch.compile(backbone.fc, backend="eager")
    with pytest.raises(
        TypeError, match="fc of Plain are compiled, and would go on with the weights that they have"
    ):
        wrap_backbone(backbone, num_classes=3)


def test_backbone_may_have_a_stitch_of_its_own():
    class Stitching(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.stitch = nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, images):
            return self.fc(self.stitch(self.c2(self.c1(images))).mean((2, 3)))

    assert assert_equals_plain(Stitching()).attention_branch.stage is not None


def test_name_of_a_submodule_that_cannot_stand_in_python_is_told():
    class Keyword(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("class", nn.Conv2d(8, 8, 1))

        def forward(self, images):
            return self.fc(self.c2(getattr(self, "class")(self.c1(images))).mean((2, 3)))

    with pytest.raises(CutError, match="whose name cannot stand in Python, such as a keyword"):
        wrap_backbone(Keyword(), input_size=32)


def pruned() -> nn.Module:
    backbone = Plain()
    prune.l1_unstructured(backbone.c1, "weight", 0.5)
    return backbone


def storing() -> nn.Module:
    backbone = Plain()
    backbone.c2.last = backbone.c1(torch.zeros(1, 3, 8, 8))
    return backbone


@pytest.mark.parametrize(("make_backbone", "name"), [(pruned, r"c1\.weight"), (storing, r"c2\.last")])
def test_what_keeps_a_backbone_from_being_copied_is_named(make_backbone, name):
    with pytest.raises(TypeError, match=rf"it holds tensors that were computed, {name}\n.*prune\.remove"):
        wrap_backbone(make_backbone())


def test_function_and_module_of_the_same_name_are_told_apart():
    class TwoRelus(Plain):
        def forward(self, images):
            return self.fc(self.c2(self.relu(self.c2(torch.relu(self.c1(images))))).mean((2, 3)))

    names = [split.name for split in find_splits(TwoRelus())]
    assert len(set(names)) == len(names)
    assert {"relu", "relu()"} <= set(names)
    assert (
        assert_equals_plain(TwoRelus(), split="relu()").feature_extractor(torch.randn(1, 3, 32, 32)).shape[-1]
        == 16
    )
    assert (
        assert_equals_plain(TwoRelus(), split="relu").feature_extractor(torch.randn(1, 3, 32, 32)).shape[-1]
        == 8
    )


def test_addition_in_place_is_followed():
    class Residual(Plain):
        def forward(self, images):
            features = self.c1(images)
            features += self.relu(features)
            return self.fc(self.c2(features).mean((2, 3)))

    assert_equals_plain(Residual())


def test_shape_changed_in_place_is_followed():
    class AddsADimension(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, 2, 1) for _ in range(2)))  # is opened

        def forward(self, images):
            return self.fc(self.body(self.c1(images).unsqueeze_(2).squeeze(2)).mean((2, 3)))

    assert [split.name for split in find_splits(AddsADimension())] == ["squeeze()", "body.0", "body.1"]


def test_submodule_may_look_at_values():
    class Flip(nn.Module):
        def forward(self, features):
            return -features if features.mean() > 0 else features

    class Careful(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.flip = Flip()

        def forward(self, images):
            return self.fc(self.flip(self.c2(self.c1(images))).mean((2, 3)))

    assert_equals_plain(Careful())


def test_parametrized_convolution_in_the_stage_gets_stride_1_too():
    backbone = Plain()
    nn.utils.parametrizations.weight_norm(backbone.c2)
    model = assert_equals_plain(backbone)
    assert model(torch.randn(1, 3, 32, 32)).attention_map.shape[-2:] == (16, 16)


def test_dropout_in_place_at_the_beginning_of_the_stage_leaves_the_features():
    class Dropping(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5, inplace=True)

        def forward(self, images):
            return self.fc(self.c2(self.drop(self.c1(images))).mean((2, 3)))

    model = wrap_backbone(Dropping(), split="c1").train()
    features = model.feature_extractor(torch.randn(2, 3, 32, 32))
    before = features.clone()
    model.attention_branch(features)
    assert torch.equal(features, before)


def test_heads_take_the_dtype_of_the_stage_and_the_classifier_that_of_the_old_one():
    class Mixed(Plain):
        def forward(self, images):
            return self.fc(self.c2(self.c1(images).double()).mean((2, 3)))

    backbone = Mixed()
    backbone.c2.double()
    backbone.fc.double()
    output = wrap_backbone(backbone, num_classes=7)(torch.randn(2, 3, 32, 32))
    assert output.attention_map.dtype == output.perception_logits.dtype == torch.float64
    assert output.perception_logits.shape == (2, 7)


@pytest.mark.parametrize("alias", ["aux", "head"])
def test_num_classes_finds_the_layer_that_makes_the_logits(alias):
    class Aliased(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(8, 10)  # defined last, but never called
            self.head = self.fc

        def forward(self, images):
            layer = self.fc if alias == "aux" else self.head
            return layer(self.c2(self.c1(images)).mean((2, 3)))

    assert wrap_backbone(Aliased(), num_classes=7)(torch.randn(2, 3, 32, 32)).perception_logits.shape == (
        2,
        7,
    )


class BranchesOnType(Plain):
    def forward(self, images):
        if isinstance(images, torch.Tensor):  # while tracing it is none
            images = images * 2 + 1
        return super().forward(images)


class UpdatesBuffer(Plain):
    def forward(self, images):
        self.gain.mul_(2)
        return super().forward(images) * self.gain


class DiscardsInPlace(Plain):
    def forward(self, images):
        features = self.c2(self.c1(images))
        features.relu_()
        return self.fc(features.mean((2, 3)))


class AddsToAliased(Plain):
    def forward(self, images):
        features = self.c1(images)
        same = features
        features += self.gain
        return self.fc(self.c2(features).mean((2, 3)) + same.mean((2, 3)))


class SplitsTheBatch(Plain):
    def forward(self, images):
        features = self.c2(self.c1(images))
        return torch.cat([self.fc(feature.mean((2, 3))) for feature in features.split(1)])


class SplitsTheRows(Plain):
    def forward(self, images):
        return self.fc(sum(rows.mean((2, 3)) for rows in self.c2(self.c1(images)).split(4, dim=2)))


class ChangesWhatIsNotUsed(Plain):
    """As a network for segmentation, of which a classifier beside the decoder is wanted alone."""

    def forward(self, images):
        features = self.c2(self.c1(images))
        mask = F.interpolate(self.relu(self.c1(images)) * 2, scale_factor=2.0)
        mask.relu_().add_(1)
        return self.fc(features.mean((2, 3)))


class ReadsThroughAnAlias(Plain):
    def forward(self, images):
        features = self.c2(self.c1(images))
        flat = features.view(features.shape[0], -1)
        flat.relu_()
        return self.fc(features.mean((2, 3)))


def with_instance_forward() -> nn.Module:
    backbone = Plain()
    backbone.forward = lambda images: Plain.forward(backbone, images * 3)
    return backbone


def with_hook() -> nn.Module:
    backbone = Plain()
    backbone.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return backbone


@pytest.mark.parametrize(
    "make_backbone",
    [
        BranchesOnType,
        UpdatesBuffer,
        DiscardsInPlace,
        ReadsThroughAnAlias,
        AddsToAliased,
        SplitsTheBatch,
        SplitsTheRows,
        with_instance_forward,
        with_hook,
    ],
)
def test_what_a_trace_would_lose_is_refused(make_backbone):
    with pytest.raises(
        CutError, match=r"something that its trace has lost: .* in the forward, |cannot be traced: "
    ):
        wrap_backbone(make_backbone(), input_size=32)


def test_change_in_place_of_what_does_not_lead_to_the_logits_is_left_out():
    model = assert_equals_plain(ChangesWhatIsNotUsed())
    assert "interpolate" not in str(model.feature_extractor.graph) + str(model.perception_branch.tail.graph)


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", enabled=False),  # of use where it is on around the network
    ],
)
@pytest.mark.parametrize("around", [nullcontext, torch.no_grad])
def test_contexts_in_the_forward_are_refused(context, around):
    class InContext(Plain):
        def forward(self, images):
            with context():
                features = self.c1(images)
            return self.fc(self.c2(features).mean((2, 3)))

    with around(), pytest.raises(CutError, match=r"a graph does not record torch\.no_grad"):
        wrap_backbone(InContext())


class WithConstants(nn.Module):
    """Normalises its images by constants that are neither parameters nor buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.std = torch.tensor([0.5, 0.25, 0.5]).view(1, 3, 1, 1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(True), nn.Conv2d(8, 8, 3, 2))
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        images = (images - torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)) / self.std
        return self.fc(self.body(images).mean((2, 3)))


def test_constants_in_the_forward_are_kept():
    backbone = WithConstants()
    model = wrap_backbone(backbone)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images, attention_map=torch.ones(1, 1, 1)).perception_logits, backbone(images))
    assert vars(backbone).keys() == vars(WithConstants()).keys()


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 10)

    def forward(self, images):
        features = self.conv(images)
        if features.mean() > 0:
            features = -features
        return self.fc(features.mean((2, 3)))


class TrainsAnotherWay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 10)

    def forward(self, images):
        logits = self.fc(self.conv(images).mean((2, 3)))
        return logits + 100 if self.training else logits * 0


class TwoOutputs(TrainsAnotherWay):
    def forward(self, images):
        features = self.conv(images).mean((2, 3))
        return features, self.fc(features)


class TwoInputs(Plain):
    def forward(self, images, depth):
        return super().forward(torch.cat([images, depth], dim=1)[:, :3])


class LooksAtShape(Plain):
    def forward(self, images):
        if images.shape[-1] % 2:
            images = nn.functional.pad(images, (0, 1))
        return super().forward(images)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            Untraceable(),
            r"Untraceable.forward cannot be traced: .*\n.*submodule.*\n.*AttentionBranch.*\n.*ABN\(",
        ),
        (TrainsAnotherWay(), "TrainsAnotherWay.forward takes another path in training"),
        (
            TwoOutputs(),
            r"TwoOutputs.forward returns a tuple, expected one tensor of logits: .*\n    return self.network",
        ),
        (
            TwoInputs(),
            r"TwoInputs.forward takes images, depth, expected images alone: .*\n    return self.network",
        ),
        (LooksAtShape(), r"LooksAtShape.forward cannot be traced: .*\n.*into a submodule"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2)), r"no feature map \(B, C, H, W\)"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)),
            r"returns \('B', 8, 55, 55\).*expected logits",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Flatten(), nn.Linear(8, 2)),
            r"does not run on images .*\n.*input_size=",
        ),
    ],
    ids=[
        "data-dependent",
        "training path",
        "tuple",
        "two inputs",
        "shape",
        "no feature map",
        "no classifier",
        "other size",
    ],
)
def test_backbone_that_cannot_be_cut_is_told_why(backbone, message):
    with pytest.raises(CutError, match=message):
        wrap_backbone(backbone)
