"""A backbone's classifier, read as evidence: what each pixel of its last feature map says for a class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PooledClassifier(nn.Module):
    r"""Classifies pooled features, and tells what each channel counts for a class.

    Most classifiers average the last feature map over its pixels and apply affine maps to the mean z, some
    with a layer norm or an activation between them. If there are none of these, the logits are
    :math:`W z + b`, the mean over the pixels of :math:`W f_p + b`: the evidence for the classes at each pixel
    p (class activation mapping, Zhou et al., CVPR 2016). A layer norm or activation multiplies what it
    receives by factors that depend on z; with these factors, which are the same for all pixels, the mean of
    the evidence is the logit as well.

    Args:
        layers: Linear layers, layer norms, and activations that act on each value by itself, not in place.

    Raises:
        ValueError: If an activation works in place.

    Example:
        >>> classifier = PooledClassifier([nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, 10)])
        >>> features, shares = torch.randn(2, 8, 7, 7), torch.eye(10)[:2]
        >>> pooled = features.mean(dim=(2, 3))
        >>> classifier(pooled).shape, classifier.weights(pooled, shares).shape
        (torch.Size([2, 10]), torch.Size([2, 8]))
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        in_place = [type(layer).__name__ for layer in layers if getattr(layer, "inplace", False)]
        if in_place:
            raise ValueError(f"{', '.join(in_place)} works in place, expected layers that leave their input")
        self.layers = nn.ModuleList(layers)

    def summary(self) -> str:
        """Its layers in a line, such as ``LayerNorm(768), Linear(768, 1000)``."""

        def of_layer(layer: nn.Module) -> str:
            sizes: tuple[int, ...] = ()
            if isinstance(layer, nn.Linear):
                sizes = layer.in_features, layer.out_features
            elif isinstance(layer, nn.LayerNorm):
                sizes = layer.normalized_shape
            return f"{type(layer).__name__}({', '.join(map(str, sizes))})"

        return ", ".join(map(of_layer, self.layers))

    @property
    def out_channels(self) -> int:
        """Number of classes K, as the convolution of a new branch calls it."""
        sizes = [
            layer.out_features if isinstance(layer, nn.Linear) else layer.normalized_shape[0]
            for layer in self.layers
            if isinstance(layer, (nn.Linear, nn.LayerNorm))
        ]
        return sizes[-1]

    @torch.no_grad()
    def centre(self) -> None:
        """Takes the mean over the classes out of the last layer's weights, which changes no softmax.

        For new classes: by chance their random weights have something in common. Of few classes that would
        outweigh in the evidence what they differ in. Nothing is changed where there is one output, or where
        the last layer is not linear.
        """
        last = self.layers[-1]
        if isinstance(last, nn.Linear) and last.out_features > 1:
            last.weight -= last.weight.mean(dim=0)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, C) to logits (B, K)."""
        for layer in self.layers:
            pooled = layer(pooled)
        return pooled

    def weights(self, pooled: Tensor, shares: Tensor) -> Tensor:
        """What each channel counts for some classes.

        Args:
            pooled: (B, C).
            shares: (B, K), of each class in what is asked for.

        Returns:
            (B, C). The evidence at a pixel is the sum of its features, weighted with these, and a constant.
        """
        received = []
        for layer in self.layers:
            received.append(pooled)
            pooled = layer(pooled)
        weights = shares
        for layer, values in zip(reversed(self.layers), reversed(received), strict=True):
            weights = _backwards(layer, values, weights)
        return weights


def _backwards(layer: nn.Module, received: Tensor, weights: Tensor) -> Tensor:
    """Weights of a layer's outputs to those of its inputs."""
    if isinstance(layer, nn.Linear):
        return torch.mm(weights, layer.weight)
    if isinstance(layer, nn.LayerNorm):
        scale = torch.rsqrt(received.var(dim=1, correction=0, keepdim=True) + layer.eps)
        weights = weights * scale if layer.weight is None else weights * scale * layer.weight
        return weights - weights.mean(dim=1, keepdim=True)
    # An activation multiplies its input by a factor, which at 0 is that of a number close by.
    received = torch.where(received.abs() < 1e-4, 1e-4, received)
    activated: Tensor = layer(received)
    return weights * activated / received
