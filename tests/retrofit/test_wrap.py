"""Retrofitting: what `wrap_backbone` promises for every architecture, and what it refuses."""

import copy
import pickle

import pytest
import torch
from architectures import ARCHITECTURES, build, image_size, wrapped
from torch import nn

from abn import ABNLoss, AttentionBranch, CutError, find_splits, wrap_backbone
from abn.modules.mechanisms import MECHANISMS

# The last one is cut within a container.
SMALL = [
    "torchvision/resnet18",
    "timm/convnext_atto",
    "timm/mobilenetv3_small_050",
    "torchvision/squeezenet1_1",
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(name):
    """Shared by the tests of an architecture, which works because `wrap_backbone` leaves it as it was."""
    return build(name).eval()


def test_neutral_map_gives_the_logits_of_the_plain_backbone_bit_for_bit(name, backbone):
    model = wrap_backbone(backbone)
    images = torch.randn(2, 3, image_size(name), image_size(name) + 32)
    with torch.no_grad():
        expected = backbone(images)
        for mechanism in MECHANISMS.values():
            model.perception_branch.mechanism = mechanism.name
            output = model(images, attention_map=torch.full((1, 1, 1, 1), mechanism.neutral))
            assert torch.equal(output.perception_logits, expected)
        features = model.feature_extractor(images)
    assert output.attention_logits.shape == output.perception_logits.shape
    if (
        name == "torchvision/inception_v3"
    ):  # its reduction blocks pool by a function, so they keep their stride
        assert output.attention_map.shape[-1] < features.shape[-1]
    else:
        assert output.attention_map.shape == (2, 1, *features.shape[-2:])


def test_every_parameter_gets_a_gradient(name, backbone):
    model = wrap_backbone(backbone).train()
    images = torch.randn(2, 3, image_size(name), image_size(name))
    ABNLoss()(model(images), torch.tensor([1, 2])).backward()
    missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize("name", SMALL)
def test_backbone_that_was_handed_in_is_left_as_it_was(name):
    backbone = build(name).train()
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
        break
    backbone.get_submodule(
        next(n for n, m in backbone.named_modules() if isinstance(m, nn.Dropout | nn.Conv2d))
    ).eval()
    before = copy.deepcopy(backbone)
    modules = [id(module) for module in backbone.modules()]

    model = wrap_backbone(backbone, num_classes=7)
    ABNLoss()(model(torch.randn(2, 3, 64, 64)), torch.tensor([1, 2])).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()

    assert [id(module) for module in backbone.modules()] == modules
    assert str(backbone) == str(before)
    assert [m.training for m in backbone.modules()] == [m.training for m in before.modules()]
    for (key, ours), (_, theirs) in zip(backbone.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), key
        assert ours.grad is None, key
        assert ours.requires_grad == theirs.requires_grad, key
    for (key, ours), (_, theirs) in zip(backbone.named_buffers(), before.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), key


class FunctionalDropout(nn.Module):
    """Drops out by a function in the forward of the network itself, where tracing would freeze the flag."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, images):
        features = self.body(images).mean((2, 3))
        return self.fc(nn.functional.dropout(features, 0.5, training=self.training))


@pytest.mark.parametrize(
    "make_backbone",
    [
        FunctionalDropout,
        lambda: build("timm/resnet18", drop_rate=0.5),
        lambda: build("timm/mobilenetv3_small_050", drop_rate=0.5),
        lambda: build("torchvision/squeezenet1_1"),
    ],
    ids=["functional dropout", "timm/resnet18", "timm/mobilenetv3", "torchvision/squeezenet1_1"],
)
def test_dropout_follows_train_eval_train_like_in_the_plain_backbone(make_backbone):
    backbone = make_backbone()
    for norm in (m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0  # so that training mode does not change what evaluation mode computes
    model = pickle.loads(pickle.dumps(wrap_backbone(backbone)))
    images = torch.randn(2, 3, 64, 64)

    def logits(module, **kwargs):
        torch.manual_seed(1)  # the same numbers are drawn for the same dropouts
        with torch.no_grad():
            return module(images, **kwargs)

    def perception_logits():
        # Evaluated from the features on, so that the attention branch's dropouts draw no numbers.
        torch.manual_seed(1)
        with torch.no_grad():
            features = model.feature_extractor(images)
            return model.perception_branch(features, torch.ones(1, 1, 1, 1))

    for training in (True, False, True):
        backbone.train(training)
        model.train(training)
        assert torch.equal(perception_logits(), logits(backbone))
    assert not torch.equal(logits(backbone), logits(backbone.eval()))  # there was something to drop


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/densenet121"])
def test_mode_is_that_of_the_backbone_and_a_frozen_norm_stays_frozen(name, training):
    backbone = build(name).train(training)
    norm = next(key for key, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d))
    backbone.get_submodule(norm).eval()
    model = wrap_backbone(backbone, num_classes=3)
    frozen = model.feature_extractor.get_submodule(norm)
    assert {m.training for m in model.modules() if m is not frozen} == {training}
    assert not frozen.training


def test_frozen_backbone_stays_frozen_and_the_whole_attention_branch_is_trained():
    model = wrap_backbone(build("torchvision/resnet18").requires_grad_(False))
    trainable = {key.split(".")[0] for key, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"attention_branch"}
    assert all(p.requires_grad for p in model.attention_branch.parameters())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(name, duplicate):
    model = wrapped(name)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(model(images), duplicate(model)(images), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_round_trip(name, tmp_path):
    model, other = wrapped(name), wrap_backbone(build(name).eval())
    images = torch.randn(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        for ours, theirs in zip(model(images), other(images), strict=True):
            assert torch.equal(ours, theirs)


def test_state_dict_keeps_the_names_of_the_backbone():
    backbone = build("torchvision/resnet18")
    keys = wrap_backbone(backbone).state_dict().keys()
    extractor = {
        key.removeprefix("feature_extractor.") for key in keys if key.startswith("feature_extractor.")
    }
    tail = {
        key.removeprefix("perception_branch.tail.") for key in keys if key.startswith("perception_branch")
    }
    assert extractor | tail == backbone.state_dict().keys()
    assert not extractor & tail
    assert {
        "attention_branch.stage.layer4.0.conv2.weight",
        "attention_branch.classifier.layers.0.weight",
    } <= keys


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(name, dtype):
    for model in (wrap_backbone(build(name).to(dtype).eval()), wrapped(name).to(dtype)):
        with torch.no_grad():
            output = model(torch.randn(1, 3, 64, 64, dtype=dtype))
        assert {tensor.dtype for tensor in output} == {dtype}
        assert all(tensor.isfinite().all() for tensor in output)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_and_autocast(name):
    model = wrapped(name)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        channels_last = model(images.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(images)
    for ours, theirs in zip(channels_last, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(mixed.attention_map.float(), expected.attention_map, atol=0.05, rtol=0)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(
    ("name", "channels_given"),
    [("timm/convnext_atto", False), ("timm/tresnet_m", True)],  # the latter folds pixels into channels
)
def test_other_numbers_of_input_channels(name, channels_given, channels):
    input_size = (channels, 64, 64) if channels_given else None
    model = wrap_backbone(name, input_size=input_size, in_chans=channels).eval()
    with torch.no_grad():
        assert model(torch.randn(1, channels, 64, 64)).perception_logits.shape == (1, 1000)


def test_num_classes_replaces_the_classifier_on_the_meta_device_too():
    for backbone in (build("torchvision/resnet18"), build("timm/test_resnet")):
        model = wrap_backbone(backbone.to("meta"), num_classes=7)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("name", [*SMALL, "torchvision/densenet121"])
def test_num_classes_replaces_the_classifier_and_nothing_else(name):
    backbone = build(name).to(torch.bfloat16).eval()
    model = wrap_backbone(backbone, num_classes=7)
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64, dtype=torch.bfloat16))
    assert output.attention_logits.shape == output.perception_logits.shape == (2, 7)
    ours, theirs = model.state_dict(), backbone.state_dict()
    for key, value in theirs.items():
        (kept,) = [k for k in ours if k.endswith(f"extractor.{key}") or k.endswith(f"tail.{key}")]
        assert ours[kept].dtype == value.dtype
        assert value.shape[:1] == (1000,) or torch.equal(ours[kept], value), key


def test_stage_copy_starts_from_the_weights_of_the_last_stage():
    backbone = build("torchvision/resnet18")
    stage = wrap_backbone(backbone, stage="copy", start="new").attention_branch.stage
    for key, value in backbone.layer4.state_dict().items():
        assert torch.equal(stage.state_dict()[f"layer4.{key}"], value)
    assert stage.layer4[0].conv1.stride == stage.layer4[0].downsample[0].stride == (1, 1)
    assert backbone.layer4[0].conv1.stride == (2, 2)


def test_stage_none_reads_the_features_as_they_are():
    model = wrap_backbone("torchvision/resnet18", stage="none")
    assert isinstance(model.attention_branch.stage, nn.Identity)
    assert model(torch.randn(2, 3, 64, 64)).attention_map.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(("num_classes", "responses"), [(1000, 32), (10, 10), (1, 16)])
def test_light_stage_narrows_the_features_and_the_responses(num_classes, responses):
    backbone = build("torchvision/resnet18", num_classes=num_classes).half().eval()
    branch = wrap_backbone(backbone, stage="light").attention_branch
    assert branch.norm.num_features == 32  # an eighth of 256
    assert branch.classifier.weight.shape == (num_classes, responses, 1, 1)
    assert not any(module.training for module in branch.modules())
    assert {parameter.dtype for parameter in branch.parameters()} == {torch.float16}


def test_light_stage_takes_the_width_of_the_responses_that_was_asked_for():
    model = wrap_backbone("torchvision/resnet18", stage="light", response_channels=64)
    assert model.attention_branch.response_conv.out_channels == 64
    by_task = wrap_backbone("torchvision/resnet18", stage="light", tasks=40)
    assert by_task.attention_branch.response_conv.out_channels == 40  # one per task


def test_stage_of_ones_own():
    stage = nn.Conv2d(256, 32, kernel_size=3, padding=1)
    model = wrap_backbone("torchvision/resnet18", stage=stage)
    assert model.attention_branch.stage is stage
    assert model.attention_branch.norm.num_features == 32


def test_stage_that_overwrites_the_features_is_refused():
    with pytest.raises(ValueError, match="stage changes the features in place"):
        wrap_backbone("torchvision/resnet18", stage=nn.ReLU(inplace=True))


def test_copied_stage_that_begins_in_place_gets_its_own_features():
    class PreActivated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
            self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(16, 10)

        def forward(self, images):
            return self.fc(self.conv2(self.relu(self.conv1(images))).mean((2, 3)))

    backbone = PreActivated()
    model = wrap_backbone(backbone, split="conv1")
    images = torch.randn(2, 3, 32, 32)
    output = model(images, attention_map=torch.ones(1, 1, 1))
    assert torch.equal(output.perception_logits, backbone(images))
    ABNLoss()(output, torch.tensor([0, 1])).backward()


@pytest.mark.parametrize("split", ["layer1", "layer2", "layer3.4", "layer4"])
def test_split_by_name(split):
    backbone = build("torchvision/resnet50").eval()
    model = wrap_backbone(backbone, split=split)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output = model(images, attention_map=torch.ones(1, 1, 1))
    assert torch.equal(output.perception_logits, backbone(images))
    assert split in dict(model.feature_extractor.named_modules())
    size = {"layer1": 16, "layer2": 8, "layer3.4": 4, "layer4": 2}[split]
    assert output.attention_map.shape == (1, 1, size, size)


def test_mechanism_is_passed_on():
    assert wrap_backbone("torchvision/resnet18", mechanism="multiplicative").perception_branch.mechanism == (
        "multiplicative"
    )


@pytest.mark.parametrize(
    ("name", "split", "stride"),
    [
        ("torchvision/resnet18", "layer3", 16),
        ("timm/convnext_atto", "stages.2", 16),
        ("timm/efficientnet_b0", "blocks.4", 16),
        ("timm/densenet121", "features.denseblock3", 16),
        ("torchvision/vgg11_bn", "features.20", 8),  # its last pool has no convolution behind it
    ],
)
def test_default_split_is_where_the_last_stage_begins(name, split, stride):
    (default,) = [s for s in find_splits(build(name)) if s.default]
    assert (default.name, default.stride) == (split, stride)


def test_splits_print_as_a_table():
    table = str(find_splits("torchvision/resnet18")).splitlines()
    assert table[0].split() == ["split", "channels", "stride", "height", "×", "width"]
    assert "layer3        256      16      14 × 14  ← default" in table
    assert table[-2] == "for images of 224 × 224; maps are as fine, or coarser where a stage keeps its stride"
    assert table[-1] == "attention branch starts from the classifier: Linear(512, 1000)"
    assert len({line.index("×") for line in table[1:-2]}) == 1


def test_finding_splits_leaves_the_backbone_alone():
    backbone = build("torchvision/googlenet").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    find_splits(backbone)
    assert all(module.training for module in backbone.modules())
    assert backbone.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("name", "split"), [("torchvision/swin_t", "features.5"), ("timm/test_mambaout", "stages.2")]
)
def test_channels_last_network_gets_its_features_with_channels_first(name, split):
    backbone = build(name).eval()
    model = wrap_backbone(backbone)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        output = model(images, attention_map=torch.ones(1, 1, 1))
        assert torch.equal(output.perception_logits, backbone(images))
        features = model.feature_extractor(images)
    assert features.shape[2:] == (4, 6)
    (default,) = [s for s in find_splits(backbone) if s.default]
    assert default.name == split


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            nn.Conv2d(64, 8, 1),
            r"stage does not run, expected a module that takes features \('B', 256, 14, 14\)",
        ),
        (nn.Flatten(), r"stage returns \('B', 50176\), expected"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), "stage returns a tuple, expected"),
    ],
)
def test_stage_that_does_not_fit_is_refused(stage, message):
    with pytest.raises(ValueError, match=message):
        wrap_backbone("torchvision/resnet18", stage=stage)


def test_unknown_split_lists_the_valid_ones():
    with pytest.raises(
        CutError, match=r"cannot be cut at split='layer9'. Valid splits:\n(.*\n)*    layer3\n"
    ):
        wrap_backbone("torchvision/resnet18", split="layer9")


def test_split_inside_a_residual_block_is_refused():
    with pytest.raises(CutError, match=r"cannot be cut at split='layer3\.0\.conv1'"):
        wrap_backbone("torchvision/resnet18", split="layer3.0.conv1")


def test_input_too_small_for_the_cut_is_refused():
    with pytest.raises(
        CutError, match=r"no feature map .* images \('B', 3, 2, 2\).* input_size= large enough"
    ):
        wrap_backbone("torchvision/resnet18", input_size=2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes is 0, expected a number of at least 1"),
        ({"num_classes": "7"}, ValueError, "num_classes is '7', expected a number of at least 1"),
        ({"split": 3}, ValueError, "split is 3, expected a name"),
        (
            {"stage": "copied"},
            ValueError,
            "stage is 'copied', expected 'dense', 'copy', 'light', 'none' or a module",
        ),
        ({"mechanism": "additive"}, ValueError, "mechanism is 'additive'"),
        ({"input_size": 0}, ValueError, "input_size is 0, expected one number of pixels"),
        ({"input_size": True}, ValueError, "input_size is True, expected one number of pixels"),
        ({"input_size": (64, 64)}, ValueError, r"input_size is \(64, 64\), expected .* \(C, H, W\)"),
        ({"pretrained": True}, TypeError, r"unexpected arguments \['pretrained'\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        wrap_backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), **arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "expected 'timm/<model>', 'torchvision/<model>' or a module"),
        ("timm/resnet5O", "timm has no classifier 'resnet5O'; similar: .*resnet50"),
        ("torchvision/resnet55", "torchvision has no classifier 'resnet55'; similar: .*resnet50"),
    ],
)
def test_unknown_names_are_refused_with_similar_ones(name, message):
    with pytest.raises(ValueError, match=message):
        wrap_backbone(name)


def test_what_is_not_a_backbone_is_refused():
    with pytest.raises(TypeError, match="backbone is a type, expected a module or a name"):
        wrap_backbone(AttentionBranch)
