"""examples/train.py, with batch norms over all processes on CPUs too, for which PyTorch has none."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import train
from training.distributed import Processes


class SyncBatchNorm(nn.BatchNorm2d):
    """The textbook's formula, on the joined batch."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        count = all_reduce(torch.tensor(features[:, 0].numel()))
        mean = all_reduce(features.sum(dim=(0, 2, 3))) / count
        centred = features - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised = centred * (variance + self.eps).rsqrt()[:, None, None]
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


def synchronise_batch_norms(processes: Processes, model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and processes.count > 1:
            norm = SyncBatchNorm(module.num_features)
            norm.load_state_dict(module.state_dict())
            model.set_submodule(name, norm)
    return model


if __name__ == "__main__":
    Processes.synchronise_batch_norms = synchronise_batch_norms
    train.main()
