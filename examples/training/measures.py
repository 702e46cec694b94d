"""Measures losses and accuracies, branch by branch."""

import torch
from torch import Tensor, nn


class Totals:
    """Sums of each branch over the images seen so far: loss, top-1 hits, top-5 hits, number of images."""

    def __init__(self, branches: list[str], sums: Tensor | None = None) -> None:
        self.branches = branches
        self.sums = torch.zeros(len(branches), 4, dtype=torch.float64) if sums is None else sums

    @torch.no_grad()
    def add(self, logits: dict[str, Tensor], targets: Tensor, criterion: nn.Module) -> None:
        """Adds a batch: logits (B, K) by branch, and targets (B,), or (B, K) if images are mixed."""
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        count = torch.tensor(len(labels), device=labels.device)
        sums = []
        for scores in logits.values():
            hits = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]  # (B, 5)
            loss = criterion(scores.float(), targets) * count
            sums.append(torch.stack([loss, hits[:, 0].sum(), hits.sum(), count]))
        precision = torch.float32 if labels.device.type == "mps" else torch.float64
        # The sums stay on the device, so that nothing has to wait for the device.
        self.sums = self.sums.to(labels.device, precision) + torch.stack(sums).to(precision)

    def means(self) -> dict[str, float]:
        """Returns means by measure and branch, such as ``"loss_attention"``. Accuracies are in 0..1."""
        rows = (self.sums[:, :3] / self.sums[:, 3:]).tolist()
        names = ("loss", "top1", "top5")
        return {
            f"{name}_{branch}": value
            for branch, row in zip(self.branches, rows, strict=True)
            for name, value in zip(names, row, strict=True)
        }
