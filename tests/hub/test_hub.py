"""Networks come back from files of every kind, in full or not at all."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import abn
from abn import ABN, hub, wrap_backbone
from abn.__main__ import main
from abn.hub import CheckpointError
from abn.hub.official import to_reference

BUILDERS = {
    "abn_resnet18": {},
    "abn_se_resnet18": {},
    "abn_cifar_resnet": {"depth": 8},
    "abn_cifar_densenet": {"depth": 10, "growth_rate": 4, "compression": 0.7, "dropout": 0.2},
    "abn_cifar_wide_resnet": {"depth": 10, "widen_factor": 1},
    "abn_cifar_resnext": {"depth": 11, "cardinality": 2, "base_width": 8, "in_channels": 1},
}


def network(name: str = "abn_cifar_resnet", **arguments: object) -> ABN:
    """A network whose every weight and statistic differs from what a new one has."""
    official_map = "log_sum" if "_se_" in name else "convolution"
    arguments = {**BUILDERS[name], "num_classes": 6, "map": official_map, **arguments}
    model = abn.create_model(name, **arguments).eval()
    for value in model.state_dict().values():
        value.copy_(torch.rand_like(value, dtype=torch.float32) + 0.5)
    return model


def assert_equal(ours: ABN, theirs: ABN) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    channels = ours.feature_extractor.conv1.in_channels
    images = (
        torch.randn(2, channels, 32, 32) if "cifar" in ours.built_with["model"] else torch.randn(2, 3, 64, 64)
    )
    with torch.no_grad():
        for one, other in zip(ours(images), theirs(images), strict=True):
            assert torch.equal(one, other)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """As the official trainer writes it."""
    state_dict = {f"module.{key}": value for key, value in to_reference(network().state_dict()).items()}
    torch.save({"epoch": 300, "state_dict": state_dict, "best_acc": 77.5}, tmp_path / "model_best.pth.tar")
    return tmp_path / "model_best.pth.tar"


@pytest.mark.parametrize("name", BUILDERS)
def test_directory_holds_what_a_builder_made(name, tmp_path):
    further = {"mechanism": "multiplicative", "stage": "none"} if name == "abn_cifar_wide_resnet" else {}
    model = network(name, **further)
    model.save_pretrained(tmp_path)
    loaded = hub.load(tmp_path)
    stage = further.get("stage", "copy")
    assert loaded.built_with == {
        **model.built_with,
        "start": "new",
        "stage": stage,
        "mechanism": model.perception_branch.mechanism,
    }
    assert not any(module.training for module in loaded.modules())
    assert_equal(loaded, model)
    assert_equal(hub.load(str(tmp_path / "model.safetensors")), model)  # also describes itself


@pytest.mark.parametrize("name", ["abn_cifar_resnet", "abn_cifar_wide_resnet"])
@pytest.mark.parametrize("official", [True, False], ids=["official names", "our names"])
def test_state_dict_needs_no_description(name, official, tmp_path):
    model = network(name)
    state_dict = model.state_dict()
    torch.save(to_reference(state_dict) if official else state_dict, tmp_path / "model.pth")
    assert_equal(hub.load(tmp_path / "model.pth"), model)
    save_file(to_reference(state_dict) if official else state_dict, tmp_path / "model.safetensors")
    assert_equal(hub.load(tmp_path / "model.safetensors"), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_loaded_in_the_default_one(dtype, tmp_path):
    model = network()
    torch.save(model.to(dtype).state_dict(), tmp_path / "model.pth")
    loaded = hub.load(tmp_path / "model.pth")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert_equal(loaded, model.float())


def test_another_number_of_classes_renews_what_is_as_wide_as_they_are(checkpoint, caplog):
    torch.manual_seed(1)
    kept = hub.load(checkpoint).state_dict()
    with caplog.at_level(logging.WARNING, "abn.hub"):
        loaded = hub.load(checkpoint, num_classes=3)
    renewed = {
        "attention_branch.response_conv.weight",
        *(
            f"attention_branch.response_norm.{name}"
            for name in ("weight", "bias", "running_mean", "running_var")
        ),
        "attention_branch.classifier.weight",
        "attention_branch.map_conv.weight",
        "perception_branch.tail.fc.weight",
        "perception_branch.tail.fc.bias",
    }
    assert {key for key, value in loaded.state_dict().items() if value.shape != kept[key].shape} == renewed
    renewed |= {key for key in kept if key.startswith("attention_branch.map_norm.")}
    assert all(
        torch.equal(value, kept[key]) for key, value in loaded.state_dict().items() if key not in renewed
    )
    (record,) = caplog.records
    assert set(record.getMessage().split("=3: ")[1].split(", ")) == renewed
    assert "model_best.pth.tar: started anew for num_classes=3: " in record.getMessage()
    assert loaded.built_with["num_classes"] == 3
    output = loaded(torch.randn(2, 3, 32, 32))
    assert output.attention_logits.shape == output.perception_logits.shape == (2, 3)


def test_new_map_is_not_inverted_by_the_sign_that_the_old_one_had(tmp_path):
    model = abn.abn_resnet18(num_classes=10, map="convolution")
    nn.init.constant_(model.attention_branch.map_norm.weight, -2.0)
    model.save_pretrained(tmp_path)
    branch = hub.load(tmp_path, num_classes=5).attention_branch
    assert branch.map_norm.weight.item() == 1
    responses = torch.rand(2, 5, 4, 4) * torch.linspace(0, 1, 4)
    maps = branch.map_norm(branch.map_conv(responses)).sigmoid()
    assert (maps[..., 1:3, 1:3].diff(dim=-1) > 0).all()  # where there is more response, there is more map


def test_preprocessing_is_set_on_the_network_that_is_loaded(tmp_path):
    network().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"unexpected arguments \['preprocessing'\]: set them on the network"):
        hub.load(tmp_path, preprocessing=abn.Preprocessing())


@pytest.mark.parametrize("num_classes", [1, 2500])
def test_official_network_for_other_classes_stays_one_that_the_official_code_has(num_classes, tmp_path):
    abn.abn_resnet18(num_classes=10, map="convolution").save_pretrained(tmp_path / "ten")
    model = hub.load(tmp_path / "ten", num_classes=num_classes)
    assert model.attention_branch.response_conv.out_channels == num_classes
    model.save_pretrained(tmp_path / "others")
    hub.convert(tmp_path / "others", tmp_path / "official.pth")
    assert hub.load(tmp_path / "official.pth").attention_branch.num_classes == num_classes
    wrap_backbone("timm/test_resnet", map="convolution").save_pretrained(tmp_path / "untold")
    branch = hub.load(tmp_path / "untold", num_classes=num_classes).attention_branch
    assert branch.response_conv.out_channels == num_classes


def test_what_weights_do_not_tell_can_be_given(tmp_path):
    network = abn.abn_cifar_wide_resnet(10, 2, dropout=0.3, map="convolution")
    torch.save({"state_dict": to_reference(network.state_dict())}, tmp_path / "wrn.pth.tar")
    assert hub.load(tmp_path / "wrn.pth.tar").built_with["dropout"] == 0
    model = hub.load(tmp_path / "wrn.pth.tar", dropout=0.3, num_classes=4)
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.3}
    model.save_pretrained(tmp_path / "mine")
    assert hub.load(tmp_path / "mine").built_with["dropout"] == 0.3
    timms = wrap_backbone("timm/test_resnet", num_classes=4)
    timms.save_pretrained(tmp_path / "timm")
    assert hub.load(tmp_path / "timm", drop_rate=0.5).built_with["drop_rate"] == 0.5


def test_state_dict_of_a_module_of_lightning_is_one(tmp_path):
    model = network("abn_resnet18")
    state_dict = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state_dict, "epoch": 3}, tmp_path / "last.ckpt")
    loaded = hub.load(tmp_path / "last.ckpt")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("beside", ["alone", "in a directory"])
def test_weights_of_a_plain_network_are_told_where_they_belong(beside, tmp_path):
    wrap_backbone("timm/test_resnet").save_pretrained(tmp_path)
    save_file(
        abn.retrofit.backbones.create_backbone("timm/test_resnet").state_dict(),
        tmp_path / "model.safetensors",
    )
    path = tmp_path / "model.safetensors" if beside == "alone" else tmp_path
    with pytest.raises(CheckpointError, match="hand them to wrap_backbone") as error:
        hub.load(path)
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropuot": 0.3}, "does not build a network: unexpected arguments \\['dropuot'\\]"),
        ({"depth": 16}, "does not hold the weights of"),
        ({"pretrained": True}, r"hub\.load asks for \['pretrained'\], but all weights are in"),
    ],
)
def test_arguments_that_do_not_fit_the_weights_are_refused(tmp_path, arguments, message):
    network = abn.abn_cifar_wide_resnet(10, 2)
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        hub.load(tmp_path, **arguments)


def test_same_number_of_classes_renews_nothing(checkpoint, caplog):
    assert_equal(hub.load(checkpoint, num_classes=6), hub.load(checkpoint))
    assert not caplog.records


def test_another_number_of_classes_of_a_wrapped_backbone(tmp_path):
    model = wrap_backbone("timm/test_resnet", num_classes=192)  # as many as the features have channels
    model.save_pretrained(tmp_path)
    loaded = hub.load(tmp_path, num_classes=5)
    assert loaded(torch.randn(2, 3, 64, 64)).perception_logits.shape == (2, 5)
    assert torch.equal(loaded.attention_branch.norm.weight, model.attention_branch.norm.weight)


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, True, "ten"])
def test_number_of_classes_that_is_none_is_refused(num_classes, checkpoint):
    with pytest.raises(ValueError, match=r"num_classes is .*, expected a number of at least 1"):
        hub.load(checkpoint, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_all_that_does_not_fit_is_named(num_classes, checkpoint):
    content = torch.load(checkpoint)
    state_dict = content["state_dict"]
    del state_dict["module.fc.bias"]
    del state_dict["module.bn_att.weight"]
    state_dict["module.att_conv4.weight"] = torch.zeros(1)
    state_dict["module.bn1.weight"] = torch.zeros(17)
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointError) as raised:
        hub.load(checkpoint, num_classes=num_classes)
    message = str(raised.value)
    assert (
        "model_best.pth.tar does not hold the weights of {'model': 'abn_cifar_resnet', 'depth': 8" in message
    )
    assert "\nmissing: attention_branch.norm.weight, perception_branch.tail.fc.bias\n" in message
    assert "\nnot part of it: feature_extractor.att_conv4.weight\n" in message
    assert message.endswith("\nof another shape: feature_extractor.bn1.weight (17,), expected (16,)")


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("abn_cifar_resnet", "feature_extractor.fc.weight", r"stand for the same weights"),
        ("abn_cifar_resnet", "feature_extractor.layer3.0.conv1.weight", r"stand for the same weights"),
        ("abn_cifar_resnext", "conv1.weight", r"'conv_1_3x3\.weight', 'conv1\.weight'\] stand for the same"),
        (
            "abn_se_resnet18",
            "layer1.0.se.fc1.weight",
            r"'layer1\.0\.fc1\.weight', 'layer1\.0\.se\.fc1\.weight'\]",
        ),
    ],
)
def test_two_entries_for_the_same_weights_are_refused(name, key, message, tmp_path):
    state_dict = network(name).state_dict()
    if not key.startswith("feature_extractor"):
        state_dict = to_reference(state_dict)
    torch.save({**state_dict, key: torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        hub.load(tmp_path / "model.pth")


@pytest.mark.parametrize("shape", [(), (3,), (4, 1, 1, 64), (4, 2, 32, 1), (4, 64, 1)])
def test_odd_shape_is_never_made_to_fit(shape, tmp_path):
    state_dict = network("abn_se_resnet18").state_dict()
    state_dict["feature_extractor.layer1.0.se.fc1.weight"] = torch.ones(shape)
    torch.save(state_dict, tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"of another shape: feature_extractor\.layer1\.0\.se\.fc1\.weight"
    ):
        hub.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feature_extractor.bn1.num_batches_tracked", torch.tensor(float("nan"))),
        ("feature_extractor.bn1.weight", torch.ones(16, dtype=torch.int8)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*NaN")
def test_numbers_of_another_kind_are_refused(key, value, tmp_path):
    torch.save({**network().state_dict(), key: value}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=rf"of another kind: {key} {value.dtype}, expected"):
        hub.load(tmp_path / "model.pth")


def test_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"of no known network: the state dict holds \['weight', 'bias'\]"
    ):
        hub.load(tmp_path / "model.pth")


def test_backbone_wrapped_by_hand_is_refused_without_its_configuration(tmp_path):
    torch.save(wrap_backbone("timm/test_resnet", stage="copy").state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"of no known network: no ResNet has stages"):
        hub.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model": "cifar_resnet", "depth": 8},
            "asks for cifar_resnet, expected .* with an attention branch",
        ),
        (
            {"model": "abn_cifar_resnet", "depth": 9},
            r"does not build a network: depth is 9, expected 6n \+ 2",
        ),
        ({"model": "abn_resnet55"}, "does not build a network: there is no model 'abn_resnet55'"),
        ({"model": ["abn_resnet18"]}, "does not build a network"),
        ({"model": "abn_resnet18", "weights": "DEFAULT"}, r"asks for \['weights'\]"),
        ([], "names neither a model nor a backbone"),
    ],
)
def test_configuration_that_makes_no_network_is_refused(config, message, tmp_path):
    network().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        hub.load(tmp_path)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\xfd", b"[" * 200_000])
def test_configuration_that_is_no_json_is_refused(text, tmp_path):
    network().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        hub.load(tmp_path)


def test_unknown_name_offers_similar_ones(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no published weights of this name; similar: .*abn_resnet152"
    ):
        hub.load("abn_resnet15")
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.pth"):
        hub.load(tmp_path / "nothing.pth")


def test_name_that_is_also_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    model.save_pretrained("abn_resnet50")
    with pytest.raises(
        ValueError, match=r"published weights and of a file: write \./abn_resnet50 for the file"
    ):
        hub.load("abn_resnet50")
    assert_equal(hub.load("./abn_resnet50"), model)


def test_network_of_another_size_than_its_weights_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_classes": 7}))
    with pytest.raises(CheckpointError, match=r"of another shape: attention_branch\.response_conv\.weight"):
        hub.load(tmp_path)


@pytest.mark.parametrize("source", [None, b"model.pth", 5, ""])
def test_source_of_another_type_is_refused(source):
    with pytest.raises(TypeError, match=r"source is .*, expected a name, a path or an address"):
        hub.load(source)


@pytest.mark.parametrize("revision", ["/etc/passwd", "../../evil"])
def test_revision_that_is_a_path_is_refused(revision):
    with pytest.raises(ValueError, match=rf"revision is '{revision}', expected a branch, a tag or a commit"):
        hub.load(f"hf-hub:me/mine@{revision}")


def test_repository_that_cannot_be_had_is_named(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(hub.DownloadError, match="hf-hub:me/mine could not be fetched: no network"):
        hub.load("hf-hub:me/mine")


def test_repository_of_the_hugging_face_hub_is_loaded(tmp_path, monkeypatch):
    model = network()
    model.save_pretrained(tmp_path)
    asked = []

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_equal(hub.load("hf-hub:me/mine"), model)
    assert_equal(hub.load("hf-hub:me/mine@v1"), model)
    files = ["config.json", "model.safetensors"]
    assert asked == [("me/mine", None, files), ("me/mine", "v1", files)]


@pytest.mark.parametrize("name", ["abn_se_resnet18", "abn_cifar_resnet", "abn_cifar_densenet"])
def test_conversion_goes_both_ways(name, tmp_path):
    model = network(name, **({"dropout": 0.0} if name == "abn_cifar_densenet" else {}))
    official = to_reference(model.state_dict())
    torch.save({"state_dict": official}, tmp_path / "theirs.pth.tar")
    hub.convert(tmp_path / "theirs.pth.tar", tmp_path / "ours.safetensors")
    assert_equal(hub.load(tmp_path / "ours.safetensors"), model)
    hub.convert(str(tmp_path / "ours.safetensors"), str(tmp_path / "back.pth.tar"))
    back = torch.load(tmp_path / "back.pth.tar")["state_dict"]
    assert back.keys() == {f"module.{key}" for key in official}
    assert all(torch.equal(back[f"module.{key}"], value) for key, value in official.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back.pth.tar",
        "ours.safetensors",
        "theirs.pth.tar",
    ]


def test_network_trained_here_is_converted_from_its_directory(tmp_path):
    model = network()
    model.save_pretrained(tmp_path / "mine")
    hub.convert(tmp_path / "mine", tmp_path / "theirs.pth")
    assert_equal(hub.load(tmp_path / "theirs.pth"), model)


def test_converted_checkpoint_is_one_that_the_official_trainer_resumes_from(tmp_path):
    model = network()
    model.save_pretrained(tmp_path / "mine")
    hub.convert(tmp_path / "mine", tmp_path / "theirs.pth.tar")
    assert (tmp_path / "theirs.pth.tar").read_bytes()[:2] != b"PK"  # which PyTorch 0.4 could not read
    content = torch.load(tmp_path / "theirs.pth.tar")
    assert (content["epoch"], content["best_acc"]) == (0, 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=1.0)
    optimizer.load_state_dict(content["optimizer"])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)  # of the recipe


def test_converted_safetensors_describe_themselves(checkpoint, tmp_path):
    hub.convert(checkpoint, tmp_path / "ours.safetensors")
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config.pop("preprocessing")["size"] == [32, 32]
    assert config == {
        "model": "abn_cifar_resnet",
        "depth": 8,
        "num_classes": 6,
        "in_channels": 3,
        "map": "convolution",
    }


@pytest.mark.parametrize("destination", ["ours", "ours.json", "ours.zip", "directory.pth"])
def test_destination_of_another_kind_is_refused(destination, checkpoint, tmp_path):
    (tmp_path / "directory.pth").mkdir()
    with pytest.raises(ValueError, match=r"expected a file in \.safetensors, \.pth\.tar, \.pth or \.pt"):
        hub.convert(checkpoint, tmp_path / destination)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: wrap_backbone("timm/test_resnet", stage="copy"),
            r"no ResNet has stages of \(1, 1, 1, 1\) blocks",
        ),
        (lambda: wrap_backbone("timm/test_resnet", split="layer2"), "has: unknown entries"),
        (
            lambda: wrap_backbone("timm/resnet18d", stage="copy", stem_width=8),
            "has: it is built with {'backbone': 'timm/resnet18d'",
        ),
        (lambda: network(stage="none"), "has: the state dict holds"),
        (
            lambda: network(mechanism="multiplicative"),
            "has: it is built with {'mechanism': 'multiplicative'}",
        ),
        (lambda: network(map="class_activation"), "has: it is built with {'map': 'class_activation'}"),
        (
            lambda: abn.abn_resnet50(
                num_classes=2, map="convolution", replace_stride_with_dilation=[False, False, True]
            ),
            r"has: it is built with {'replace_stride_with_dilation': \[False, False, True\]}",
        ),
    ],
)
def test_network_that_the_official_code_has_not_is_not_converted_to_it(model, message, tmp_path):
    model().save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=message):
        hub.convert(tmp_path / "mine", tmp_path / "theirs.pth")
    assert not (tmp_path / "theirs.pth").exists()


def test_any_network_is_put_into_one_file(tmp_path):
    model = wrap_backbone("timm/test_resnet")
    model.save_pretrained(tmp_path / "mine")
    hub.convert(tmp_path / "mine", tmp_path / "ours.safetensors")
    assert hub.load(tmp_path / "ours.safetensors").built_with == model.built_with


def test_destination_without_a_directory_is_refused(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere for ours\.safetensors: make it"):
        hub.convert(checkpoint, tmp_path / "nowhere" / "ours.safetensors")


def test_half_a_checkpoint_is_not_converted(checkpoint, tmp_path):
    content = torch.load(checkpoint)
    del content["state_dict"]["module.fc.bias"]
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointError, match=r"missing: perception_branch\.tail\.fc\.bias"):
        hub.convert(checkpoint, tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


@pytest.mark.slow
def test_command_line_converts(checkpoint, tmp_path):
    ours = tmp_path / "ours.safetensors"
    subprocess.run([sys.executable, "-m", "abn", "convert", str(checkpoint), str(ours)], check=True)
    assert len(load_file(ours)) == len(network().state_dict())


def test_command_line_says_what_is_wrong(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["abn", "convert", "nothing.pth", "ours.zip"])
    with pytest.raises(SystemExit, match=r"^abn: destination is ours\.zip, expected"):
        main()


def test_published_weights_are_listed_as_a_table():
    table = str(hub.available()).splitlines()
    assert len(table) == 1 + len(hub.available()) == 1 + len({entry.name for entry in hub.available()})
    row = next(line for line in table if line.startswith("abn_resnet152"))
    assert row.split("  ")[0] == "abn_resnet152"
    assert {"ImageNet", "21.4 %", "22.2 %", "official", "MIT"} <= {cell.strip() for cell in row.split("  ")}
    assert {entry.model for entry in hub.available()} <= set(abn.list_models())
