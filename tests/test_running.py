"""The ways in which people run a network: compiled, exported, distributed, averaged, partly frozen."""

import copy
import gc
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, ONE_SIZE, build, wrapped
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, reparameterize_model
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._inductor.utils import run_and_get_code
from torch.distributed.fsdp import fully_shard
from torch.export import Dim
from torch.nn.parallel import DistributedDataParallel, scatter_gather
from torch.utils.checkpoint import checkpoint

from abn import ABN, ABNLoss, ABNOutput, create_model, wrap_backbone
from abn.retrofit.backbones import create_backbone

pytestmark = pytest.mark.filterwarnings("ignore")  # of compilers and exporters, about themselves
OUTPUTS = list(ABNOutput._fields)
PUBLISHED = {
    "abn_se_resnet18": {},  # a map without weights of its own
    "abn_cifar_resnext": {"depth": 11, "cardinality": 2, "base_width": 8},  # a ResNet with a norm unapplied
    "abn_resnet18": {"tasks": 3},  # a map per task
}
FEW_FAMILIES = [
    pytest.param(name, marks=[pytest.mark.slow] if i > 0 else [])
    for i, name in enumerate([*FAMILIES, *PUBLISHED])
]
SLOW_TO_ONNX = ("torchvision/shufflenet_v2_x0_5", "torchvision/mobilenet_v3_small")  # half a minute each
NEVER_TO_ONNX = ("timm/test_vit_relpos", "timm/samvit_base_patch16_224")  # nor do their backbones alone
DISTRIBUTED = [*FAMILIES[:5], "timm/test_vit2"]


def network(name: str) -> ABN:
    if name in PUBLISHED:
        torch.manual_seed(0)
        return create_model(name, num_classes=4, **PUBLISHED[name]).eval()
    return wrapped(name, num_classes=4, input_size=image_size(name))


def image_size(name: str) -> int:
    return ONE_SIZE.get(name, 64)


def images_for(name: str, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, image_size(name), image_size(name))


def dynamic(name: str) -> dict[int, object]:
    """The dimensions of the images that may vary: height and width too, where the backbone allows."""
    sizes = {} if name in ONE_SIZE else {2: Dim.AUTO, 3: Dim.AUTO}
    return {0: Dim("batch", min=1, max=64), **sizes}


def own_memory() -> int:
    """Memory of this process in KiB, without mapped files: the system may take back their pages."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0])


def loss_of(output: ABNOutput, labels: torch.Tensor) -> torch.Tensor:
    if output.perception_logits.ndim == 3:  # the same answer to every task
        labels = labels[:, None].expand(-1, output.perception_logits.shape[2])
    return ABNLoss()(output, labels)


def assert_close(ours, theirs, tolerance: float = 1e-5) -> None:
    for key, one, other in zip(OUTPUTS, ours, theirs, strict=True):
        torch.testing.assert_close(
            one, other, atol=tolerance, rtol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize(
    ("name", "training"),
    [(FAMILIES[0], False), *(pytest.param(*name.values, True, marks=name.marks) for name in FEW_FAMILIES)],
)
def test_compiles_without_a_graph_break(name, training):
    torch.compiler.reset()
    model = network(name).train(training)
    # Graphs break, or not, before a backend sees them; this one does not take minutes.
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    images, labels = images_for(name), torch.tensor([1, 2])
    outputs = []
    for module in (model, compiled):
        torch.manual_seed(0)  # for dropout
        outputs.append(module(images))
        loss_of(outputs[-1], labels).backward()
    assert_close(*outputs)
    for (key, ours), theirs in zip(compiled.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, atol=1e-4, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.slow
def test_20_batch_sizes_compile_as_often_as_for_the_backbone_alone():
    compilations = []
    new = wrap_backbone(build(FAMILIES[0]), start="new").eval()
    for model in (build(FAMILIES[0]).eval(), new, network(FAMILIES[0])):
        torch.compiler.reset()
        counter = CompileCounter()
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        with torch.inference_mode():
            for batch in range(1, 21):
                compiled(images_for(FAMILIES[0], batch))
        compilations.append(counter.frame_count)
    plain, of_new, of_pretrained = compilations
    assert of_new == plain <= 3
    # From a number of images on PyTorch compiles a convolution anew; a dense stage sees four times as many.
    assert of_pretrained <= plain + 1


@pytest.mark.slow
def test_compiles_for_deployment_with_weights_as_constants():
    torch.compiler.reset()
    model, images = network(FAMILIES[0]), images_for(FAMILIES[0])
    compiled = torch.compile(model.to(memory_format=torch.channels_last))
    with torch.inference_mode(), torch._inductor.config.patch(freezing=True):
        outputs, code = run_and_get_code(compiled, images)
        assert_close(outputs, model(images))
    assert "sqrt" not in "".join(code)  # of a variance, in a batch norm
    with torch.inference_mode():  # compiled for good
        assert_close(compiled(images), outputs, tolerance=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_2000_batches_of_varied_size_leave_no_memory_behind():
    model = network(FAMILIES[0])
    generator = torch.Generator().manual_seed(0)
    tensors, peaks = [], []
    gc.collect()  # what other tests have left
    with torch.inference_mode():
        for _ in range(2):  # sizes in the same distribution
            used = []
            for _ in range(1000):
                batch, height, width = torch.randint(1, 5, (3,), generator=generator).tolist()
                model(torch.randn(batch, 3, 32 * height, 32 * width))
                used.append(own_memory())
            gc.collect()
            tensors.append(sum(issubclass(type(held), torch.Tensor) for held in gc.get_objects()))
            peaks.append(max(used))
    assert tensors[1] <= tensors[0]
    assert peaks[1] - peaks[0] <= 0.01 * peaks[0]


@pytest.mark.parametrize("name", FEW_FAMILIES)
def test_exports_with_dynamic_shapes(name, tmp_path):
    model = network(name)
    exported = torch.export.export(model, (images_for(name),), dynamic_shapes=(dynamic(name),))
    torch.export.save(exported, tmp_path / "model.pt2")
    exported = torch.export.load(tmp_path / "model.pt2").module()
    images = images_for(name, batch=3)
    if name not in ONE_SIZE:
        images = torch.randn(3, 3, 96, 128)
    output = exported(images)
    assert isinstance(output, ABNOutput)
    assert_close(output, model(images))


@pytest.mark.slow
def test_compiles_ahead_of_time(tmp_path):
    model, images = network(FAMILIES[0]), images_for(FAMILIES[0])
    exported = torch.export.export(model, (images,))
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
    assert_close(torch._inductor.aoti_load_package(package)(images), model(images), tolerance=1e-4)


@pytest.mark.parametrize(
    "name", [name for name in FEW_FAMILIES if name.values[0] not in SLOW_TO_ONNX + NEVER_TO_ONNX]
)
def test_onnx_has_three_named_outputs_and_a_dynamic_batch(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network(name)
    torch.onnx.export(
        model,
        (images_for(name),),
        tmp_path / "model.onnx",
        input_names=["images"],
        output_names=OUTPUTS,
        dynamic_shapes=({0: Dim("batch", min=1, max=64)},),
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = images_for(name, batch=3)
    output = session.run(OUTPUTS, {"images": images.numpy()})
    assert_close(map(torch.from_numpy, output), model(images), tolerance=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_moving_average_follows_the_weights_and_keeps_its_own_mode(name):
    model = network(name).train()
    average = ModelEmaV3(model, decay=0.75)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update(model)
    for key, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, before[key] + 0.25, msg=lambda m, key=key: f"{key}: {m}")
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in average.module.modules())


def _gradients_of_two_processes(rank: int, directory: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{directory}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for i, name in enumerate(DISTRIBUTED):
        model = DistributedDataParallel(network(name).double())
        images, labels = _joined_batch(name)
        for _ in range(2):  # the second would find parameters that the first left without a gradient
            model.zero_grad()
            half = slice(2 * rank, 2 * rank + 2)
            loss_of(model(images[half]), labels[half]).backward()
        if rank == 0:
            torch.save([parameter.grad for parameter in model.parameters()], f"{directory}/{i}.pt")
    torch.distributed.destroy_process_group()


def _joined_batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return images_for(name, batch=4).double(), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("stage", ["dense", "copy"])
@pytest.mark.parametrize(
    "name",
    [
        "fastvit_t8",  # blocks that remember the stride of their layers
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("lcnetv2_small", "mobileone_s1", "repvgg_a0", "repvit_m1", "tiny_vit_5m_224")
        ),
    ],
)
@torch.no_grad()
def test_blocks_that_become_one_layer_give_the_same(name, stage):
    backbone = create_backbone(f"timm/{name}", num_classes=4)
    for norm in (module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    model = wrap_backbone(backbone, start="new", stage=stage).eval()
    (size, _) = model.preprocessing.size
    images = torch.randn(2, 3, size, size)
    expected = model(images)
    fused = reparameterize_model(model)
    assert len(list(fused.modules())) < len(list(model.modules()))
    assert_close(fused(images), expected, tolerance=1e-4)


@pytest.mark.slow
def test_two_processes_get_the_gradients_of_one_with_the_joined_batch(tmp_path):
    torch.multiprocessing.spawn(_gradients_of_two_processes, (str(tmp_path),), nprocs=2)
    for i, name in enumerate(DISTRIBUTED):
        model = network(name).double()  # in evaluation mode, because batch norms see their own half alone
        images, labels = _joined_batch(name)
        loss_of(model(images), labels).backward()
        gradients = torch.load(tmp_path / f"{i}.pt", weights_only=True)
        for (key, parameter), theirs in zip(model.named_parameters(), gradients, strict=True):
            where = f"{name}, {key}"
            torch.testing.assert_close(theirs, parameter.grad, msg=lambda m, where=where: f"{where}: {m}")


def _sharded_layers_agree(rank: int, directory: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{directory}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name in ("timm/test_resnet", "timm/test_convnext", "abn_resnet18"):
        torch.manual_seed(0)  # both processes need the same images
        model = network(name).eval()
        sharded = copy.deepcopy(model)
        for layer in list(sharded.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.LayerNorm):
                fully_shard(layer)
        images, labels = images_for(name), torch.tensor([0, 1])
        output, expected = fully_shard(sharded)(images), model(images)
        assert_close(output, expected)
        loss_of(output, labels).backward()
        loss_of(expected, labels).backward()
        for ours, theirs in zip(sharded.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, rtol=1e-3, atol=1e-5)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_that_share_the_weights_of_each_layer_get_the_same(tmp_path):
    torch.multiprocessing.spawn(_sharded_layers_agree, (str(tmp_path),), nprocs=2)


def test_data_parallel_gathers_the_named_tuple(monkeypatch):
    class OnTheCPU:  # PyTorch's own refuses tensors there
        @staticmethod
        def apply(target_device, dim, *tensors):
            return torch.cat(tensors, dim)

    monkeypatch.setattr(scatter_gather, "Gather", OnTheCPU)
    model = network("timm/test_resnet")
    images = images_for("timm/test_resnet", batch=4)
    output = scatter_gather.gather([model(images[:2]), model(images[2:])], target_device="cpu")
    assert isinstance(output, ABNOutput)
    assert_close(output, model(images))


@pytest.mark.parametrize("name", FAMILIES)
def test_activation_checkpointing_gives_the_same_gradients(name):
    model = network(name)
    images, labels = images_for(name), torch.tensor([1, 2])
    loss_of(model(images), labels).backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad()
    calls = []
    for part in (model.feature_extractor, model.attention_branch, model.perception_branch):

        def counted(*inputs, plain=part.forward):
            calls.append(plain)
            return plain(*inputs)

        part.forward = lambda *inputs, counted=counted: checkpoint(counted, *inputs, use_reentrant=False)
    loss_of(model(images), labels).backward()
    assert len(calls) == 6  # each part computes twice
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_feature_extractor_stays_and_the_branches_learn(name):
    model = network(name).train()
    model.feature_extractor.requires_grad_(False).eval()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    loss_of(model(images_for(name)), torch.tensor([1, 2])).backward()
    optimizer.step()
    for key, value in model.feature_extractor.state_dict().items():
        assert torch.equal(value, before[f"feature_extractor.{key}"]), key
    for branch in ("attention_branch", "perception_branch"):
        keys = [key for key in before if key.startswith(branch)]
        assert any(not torch.equal(model.state_dict()[key], before[key]) for key in keys)


@pytest.mark.parametrize("name", FAMILIES)
def test_learning_rate_grows_from_layer_to_layer(name):
    model = network(name)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, layer_decay=0.9)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scale.keys() == {id(parameter) for parameter in model.parameters()}
    extractor, stage, tail = (
        [scale[id(parameter)] for parameter in part.parameters()]
        for part in (model.feature_extractor, model.attention_branch.stage, model.perception_branch)
    )
    assert extractor == sorted(extractor)
    assert tail == sorted(tail)
    assert len(set(extractor)) > 2
    assert len(set(tail)) > 1
    assert extractor[0] < extractor[-1] < min(stage[0], tail[0])
    assert {scale[id(parameter)] for parameter in model.attention_branch.classifier.parameters()} == {1}
