"""Networks that work on tokens: vision transformers, mixers and their kin."""

import pytest
import torch
from architectures import TOKENS, build
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from torch import nn

from abn import CutError, PretrainedAttentionBranch, find_splits, wrap_backbone
from abn.modules.features import Features, feature_map_of
from abn.retrofit.backbones import input_shape
from abn.retrofit.cut import cut
from abn.retrofit.layouts import MapToTokens, OtherTokens, Tokens, TokensToMap


def small_vit(**arguments: object) -> VisionTransformer:
    usual = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 8, "num_heads": 2, "num_classes": 10}
    return VisionTransformer(**{**usual, **arguments})


@pytest.mark.parametrize("name", TOKENS)
def test_map_of_ones_gives_the_backbones_logits_bit_for_bit(name):
    backbone = build(name).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # some start at zero
        images = torch.randn(2, *input_shape(backbone, None))
        model = wrap_backbone(backbone)
        expected = backbone(images)
        output = model(images, attention_map=torch.ones(1, 1, 1))
        assert not torch.equal(*expected)
        assert torch.equal(output.perception_logits, expected)
        assert not torch.equal(model(images, attention_map=torch.zeros(1, 1, 1)).perception_logits, expected)


@pytest.mark.parametrize(
    ("pool", "class_token", "registers"), [("token", True, 0), ("avg", True, 4), ("avg", False, 0)]
)
def test_pixels_become_a_map_and_other_tokens_go_past(pool, class_token, registers):
    backbone = small_vit(global_pool=pool, class_token=class_token, reg_tokens=registers).eval()
    images = torch.randn(2, 3, 48, 48)
    tokens = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(images)))
    for block in backbone.blocks[:6]:
        tokens = block(tokens)
    features = wrap_backbone(backbone).feature_extractor(images)
    others = class_token + registers
    feature_map = features.feature_map if others else features
    assert torch.equal(feature_map, tokens[:, others:].transpose(1, 2).reshape(2, 32, 6, 6))
    if others:
        assert torch.equal(features.per_image[0], tokens[:, :others])
        assert features.shared == ()


def test_every_block_is_a_split_and_the_last_quarter_is_the_stage():
    splits = {split.name: split for split in find_splits(small_vit(), input_size=48)}
    assert [name for name in splits if name.startswith("blocks.")] == [f"blocks.{i}" for i in range(8)]
    assert [name for name, split in splits.items() if split.default] == ["blocks.5"]
    assert (splits["blocks.5"].channels, splits["blocks.5"].stride, splits["blocks.5"].width) == (32, 8, 6)


def test_stage_of_tokens_is_the_backbones_own():
    backbone = small_vit(class_token=False, global_pool="avg").eval()
    images = torch.randn(2, 3, 48, 48)
    model = wrap_backbone(backbone)
    responses = model.attention_branch.responses(model.feature_extractor(images))
    assert torch.equal(responses.flatten(2).transpose(1, 2), backbone.forward_features(images))


def test_classifier_of_pooled_tokens_is_the_evidence_of_each_token():
    backbone = small_vit(class_token=False, global_pool="avg").eval()
    nn.init.normal_(backbone.head.weight)
    images = torch.randn(2, 3, 48, 48)
    model = wrap_backbone(backbone)
    assert isinstance(model.attention_branch, PretrainedAttentionBranch)
    torch.testing.assert_close(model(images).attention_logits, backbone(images))


def test_new_heads_on_tokens_get_a_light_stage():
    for model in (
        wrap_backbone(small_vit(), num_classes=5),
        wrap_backbone(small_vit(global_pool="avg"), start="new"),
        wrap_backbone(small_vit(), tasks=3),
    ):
        assert model.stage == "light"
        assert not isinstance(model.attention_branch, PretrainedAttentionBranch)
        assert model(torch.randn(2, 3, 48, 48)).attention_map.shape[2:] == (6, 6)
    assert wrap_backbone(small_vit(global_pool="avg")).stage == "dense"


@pytest.mark.parametrize("arguments", [{}, {"global_pool": "map", "class_token": False}])
def test_classifier_of_a_class_token_is_not_taken_for_evidence(arguments):
    with pytest.warns(UserWarning, match="cannot be read pixel by pixel"):
        wrap_backbone(small_vit(**arguments))


@pytest.mark.parametrize("size", [(48, 48), (64, 32), (40, 96)])
def test_images_of_any_size_where_the_backbone_takes_them(size):
    backbone = small_vit(dynamic_img_size=True, reg_tokens=2).eval()
    model = wrap_backbone(backbone).eval()
    images = torch.randn(2, 3, *size)
    output = model(images, attention_map=torch.ones(1, 1, 1))
    assert torch.equal(output.perception_logits, backbone(images))
    assert output.attention_map.shape[2:] == (size[0] // 8, size[1] // 8)


def test_padded_images_have_a_pixel_for_what_is_left_over():
    backbone = small_vit(dynamic_img_size=True, dynamic_img_pad=True).eval()
    model = wrap_backbone(backbone).eval()
    assert model(torch.randn(2, 3, 50, 33)).attention_map.shape[2:] == (7, 5)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, None) for name in TOKENS if "levit" not in name),  # whose last stage sees the whole image
        ("timm/levit_128s", "stages.0"),
        ("timm/hiera_tiny_224", "blocks.5"),
    ],
)
def test_map_is_in_the_order_of_the_image_whatever_order_the_tokens_have(name, split):
    """Moves a bright square over an image. The features must change most where the square is."""
    backbone = build(name).eval()
    channels, size, _ = input_shape(backbone, None)
    features = cut(backbone, (channels, size, size), split).feature_extractor
    with torch.no_grad():
        for row, column in ((0, 0), (1, 3), (3, 2), (3, 3)):
            images = torch.zeros(2, channels, size, size)
            side = size // 4
            images[1, :, side * row : side * row + side, side * column : side * column + side] = 10
            dark, bright = feature_map_of(features(images))
            change = nn.functional.adaptive_avg_pool2d((bright - dark).abs().sum(0)[None], 4)[0]
            assert divmod(change.argmax().item(), 4) == (row, column)


@pytest.mark.parametrize("pool", ["token", ""])
def test_encoder_without_classifier_gets_one_of_pooled_tokens(pool):
    encoder = small_vit(num_classes=0, global_pool=pool).eval()
    with pytest.raises(ValueError, match="give num_classes=" if pool else "expected logits"):
        wrap_backbone(encoder)
    model = wrap_backbone(encoder, num_classes=5)
    assert isinstance(model.attention_branch, PretrainedAttentionBranch)
    images = torch.randn(2, 3, 48, 48)
    pooled = encoder.forward_features(images)[:, 1:].mean(dim=1)
    logits = model(images, attention_map=torch.ones(1, 1, 1)).perception_logits
    torch.testing.assert_close(logits, model.perception_branch.tail.head(pooled))


@pytest.mark.parametrize("channels_last", [False, True])
def test_encoder_that_returns_a_map_gets_a_classifier_of_the_pooled_map(channels_last):
    class Encoder(nn.Module):
        num_classes, num_features = 0, 16

        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2)

        def forward(self, images):
            features = self.conv(self.stem(images).relu())
            return features.permute(0, 2, 3, 1) if channels_last else features

    model = wrap_backbone(Encoder(), num_classes=5, input_size=32)
    assert model(torch.randn(2, 3, 32, 32)).perception_logits.shape == (2, 5)
    assert isinstance(model.attention_branch, PretrainedAttentionBranch)


def test_tokens_that_lose_their_place_are_refused():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = PatchEmbed(32, 4, 3, 16)
            self.register_buffer("order", torch.randperm(64))
            self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(16, 2, 32) for _ in range(4)))
            self.head = nn.Linear(16, 10)

        def forward(self, images):
            return self.head(self.blocks(self.embed(images)[:, self.order]).mean(1))

    with pytest.raises(CutError, match="works on tokens, and it cannot be told which token"):
        wrap_backbone(Shuffled(), input_size=32)


class TokenByToken(nn.Module):
    """Mixes no tokens, so that each pixel of the features shows which patch it comes from."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(4)))
        self.head = nn.Linear(16, 10)

    def tokens(self, feature_map):
        return feature_map.flatten(2).transpose(1, 2)

    def forward(self, images):
        return self.head(self.blocks(self.tokens(self.embed(images))).mean(1))


class ColumnByColumn(TokenByToken):
    def tokens(self, feature_map):
        return feature_map.transpose(2, 3).flatten(2).transpose(1, 2)


class InWindows(TokenByToken):
    def tokens(self, feature_map):
        batch, channels, height, width = feature_map.shape
        windows = feature_map.reshape(batch, channels, height // 4, 4, width // 4, 4)
        return windows.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, channels)


class LandscapesTurned(TokenByToken):
    def tokens(self, feature_map):
        return turned_if_landscape(feature_map).flatten(2).transpose(1, 2)


class Resized(TokenByToken):
    def forward(self, images):
        return super().forward(nn.functional.interpolate(images, (32, 32)))


class HalvesSwappedInPlace(TokenByToken):
    def __init__(self):
        super().__init__()
        self.swap = SwapInPlace()

    def tokens(self, feature_map):
        return self.swap(super().tokens(feature_map))


class SwapInPlace(nn.Module):
    def forward(self, tokens):
        swapped, half = tokens.clone(), tokens.shape[1] // 2
        swapped[:, :half], swapped[:, half:] = tokens[:, half:], tokens[:, :half]
        return swapped


def turned_if_landscape(feature_map):
    return feature_map.transpose(2, 3) if feature_map.shape[2] < feature_map.shape[3] else feature_map


@pytest.mark.parametrize(
    ("backbone", "size", "other", "taken"),
    [
        (TokenByToken, 32, (32, 64), True),
        (Resized, 32, (16, 64), True),
        (ColumnByColumn, 32, (16, 64), False),
        (InWindows, 16, (32, 32), False),
        (LandscapesTurned, 32, (16, 64), False),
    ],
)
def test_map_of_images_of_another_size_is_right_or_refused(backbone, size, other, taken):
    model = wrap_backbone(backbone().eval(), input_size=size)
    for height, width in ((size, size), other) if taken else ((size, size),):
        images = torch.zeros(2, 3, height, width)
        images[1, :, : height // 4, -width // 4 :] = 10
        dark, bright = model.feature_extractor(images)
        changed = (bright - dark).abs().sum(0) > 0
        assert changed[: changed.shape[0] // 4, -changed.shape[1] // 4 :].all()
        assert changed.sum() == changed.numel() // 16
    if not taken:
        with pytest.raises(ValueError, match="the network was cut for images of"):
            model(torch.zeros(2, 3, *other))


def test_tokens_moved_in_place_are_refused():
    with pytest.raises(CutError, match="it cannot be told which token"):
        wrap_backbone(HalvesSwappedInPlace(), input_size=32)


def test_network_is_cut_for_images_that_it_pads():
    backbone = small_vit(dynamic_img_size=True, dynamic_img_pad=True).eval()
    model = wrap_backbone(backbone, input_size=50)
    assert model(torch.randn(2, 3, 50, 50)).attention_map.shape[2:] == (7, 7)


def test_tokens_with_the_batch_second_are_refused():
    class SequenceFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = PatchEmbed(32, 4, 3, 16)
            self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(16, 2, 32) for _ in range(4)))
            self.head = nn.Linear(16, 10)

        def forward(self, images):
            return self.head(self.blocks(self.embed(images).transpose(0, 1)).mean(0))

    with pytest.raises(CutError, match=r"Expected tokens \(B, N, C\), the batch first"):
        wrap_backbone(SequenceFirst(), input_size=32)


def test_pool_along_the_sequence_is_no_map():
    class Merging(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = PatchEmbed(32, 4, 3, 16)
            self.first, self.last = (
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)
            )
            self.pool, self.head = nn.AvgPool1d(4), nn.Linear(16, 10)

        def forward(self, images):
            tokens = self.first(self.embed(images))
            return self.head(self.last(self.pool(tokens.transpose(1, 2)).transpose(1, 2)).mean(1))

    assert all(split.height == split.width for split in find_splits(Merging(), input_size=32))


def test_tail_leaves_the_other_tokens_for_the_next_call():
    class Changing(VisionTransformer):
        def forward_head(self, x, pre_logits=False):
            token = x[:, 0]
            token += x[:, 1:].mean(1)
            return self.head(token)

    backbone = Changing(img_size=48, patch_size=8, embed_dim=32, depth=8, num_heads=2, num_classes=10).eval()
    model = wrap_backbone(backbone, split="norm").eval()
    features, attention_map = model.feature_extractor(torch.randn(2, 3, 48, 48)), torch.ones(1, 1, 1)
    first, second = (model.perception_branch(features, attention_map) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "read", [lambda weight: weight, lambda weight: weight.item()], ids=["weight", "item"]
)
def test_condition_on_a_weights_value_is_refused(read):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
            self.gate, self.head = nn.Parameter(torch.ones(())), nn.Linear(8, 10)

        def forward(self, images):
            features = self.last(self.conv(images))
            return self.head((features * 2 if read(self.gate) > 0 else features).mean((2, 3)))

    with pytest.raises(CutError, match="a weight's value serves as a condition"):
        wrap_backbone(Gated(), input_size=32)


def test_function_that_branches_on_the_size_becomes_one_node():
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 10)
            self.last = nn.Conv2d(8, 8, 3, 2, 1)

        def forward(self, images):
            return self.head(self.last(self.conv(halved_if_large(images))).mean((2, 3)))

    backbone = Resized().eval()
    model = wrap_backbone(backbone, input_size=32).eval()
    for size in (32, 128):
        images = torch.randn(2, 3, size, size)
        output = model(images, attention_map=torch.ones(1, 1, 1))
        assert torch.equal(output.perception_logits, backbone(images))


def halved_if_large(images):
    return images[..., ::2, ::2] if images.shape[-1] > 64 else images


@pytest.mark.parametrize("order", [None, (2, 0, 1, 5, 3, 4)])
def test_tokens_come_back_in_the_order_that_they_had(order):
    layout = Tokens(grid=(2, 3), before=1, after=2, order=order)
    tokens = torch.randn(2, 9, 4)
    feature_map = TokensToMap(layout, (32, 48))(tokens, torch.zeros(2, 3, 32, 48))
    assert feature_map.shape == (2, 4, 2, 3)
    assert torch.equal(feature_map[:, :, 0, 0], tokens[:, 1 + (order[0] if order else 0)])
    assert torch.equal(MapToTokens(layout)(feature_map, OtherTokens(layout)(tokens)), tokens)


def test_tokens_that_make_no_map_of_the_images_are_told():
    layout = Tokens(grid=(2, 3), before=0, after=0, order=None)
    with pytest.raises(ValueError, match="got 7 patch tokens of images of 32 × 48, expected 6"):
        TokensToMap(layout, (32, 48))(torch.randn(2, 7, 4), torch.zeros(2, 3, 32, 48))


def test_map_of_a_class_and_an_edited_map_need_the_features_once():
    model = wrap_backbone(small_vit(reg_tokens=2), start="new").eval()
    images = torch.randn(2, 3, 48, 48)
    assert model.class_map(images, 3).shape == (2, 1, 6, 6)
    features, edited = model.feature_extractor(images), torch.rand(2, 1, 12, 12)
    expected = model(images, attention_map=edited).perception_logits
    assert torch.equal(model.perception_branch(features, edited), expected)


def test_several_tasks_repeat_what_goes_past_the_attention():
    model = wrap_backbone(small_vit(), tasks=3).eval()
    images = torch.randn(2, 3, 48, 48)
    features = model.feature_extractor(images)
    assert isinstance(features, Features)
    maps = torch.rand(2, 3, 6, 6)
    scores = model.perception_branch(features, maps)
    for task in range(3):
        alone = model.perception_branch(features, maps[:, task : task + 1])
        torch.testing.assert_close(scores[:, task], alone[:, task])
