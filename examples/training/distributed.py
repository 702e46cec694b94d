"""The processes that train together: a single one, or the processes that torchrun started."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from timm.utils import distribute_bn
from torch import Tensor, nn


class Processes:
    """Knows the rank of this process and the number of processes, and does what they must do together.

    Args:
        device: ``"cpu"``, ``"cuda"``, ... By default a GPU where there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            probe = torch.zeros(1, device=kind)
            probe.item()  # fails on "meta", which holds no numbers
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"--device is {kind!r}, which is not available on this machine: {error}"
            ) from error
        self.device, self.count, self.rank = probe.device, 1, 0
        cuda = self.device.type == "cuda"
        torch.backends.cudnn.benchmark = cuda
        if "WORLD_SIZE" in os.environ:  # set by torchrun
            if cuda:
                if ":" in kind:
                    raise ValueError(
                        f"--device is {kind!r}, but torchrun gives each process its own: take cuda"
                    )
                self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(self.device)
            # On GPUs gloo serves beside NCCL, for the few numbers that the processes exchange on the CPU.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
            self.count, self.rank = dist.get_world_size(), dist.get_rank()

    @property
    def leader(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Lets the first process of each machine go ahead of the others: for what is downloaded once."""
        ahead = int(os.environ.get("LOCAL_RANK", 0)) == 0
        if not ahead:
            self.wait()
        yield
        if ahead:
            self.wait()

    def wait(self) -> None:
        """Waits until all processes are here."""
        self.any(False)

    def any(self, condition: bool) -> bool:
        """Whether the condition holds in any of the processes."""
        if self.count == 1:
            return condition
        flag = torch.tensor(int(condition))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def sum(self, values: Tensor) -> Tensor:
        """Adds the tensors of all processes, on the CPU."""
        values = values.cpu().clone()
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """Returns the network, with its gradients averaged over all processes."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def synchronise_batch_norms(self, model: nn.Module) -> nn.Module:
        """Lets batch norms see the batches of all processes."""
        if self.device.type != "cuda":
            raise ValueError(f"--sync-batchnorm needs GPUs, the device is {self.device}")
        return convert_sync_batchnorm(model)

    def broadcast_batch_norms(self, model: nn.Module) -> None:
        """Gives all processes the leader's running averages of batch norms, which checkpoints hold."""
        if self.count > 1:
            distribute_bn(model, self.count, reduce=False)

    def memory(self) -> int:
        """Returns the peak of memory in use so far, in bytes: on the GPU, or by this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
