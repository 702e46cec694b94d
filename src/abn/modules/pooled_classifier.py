"""A backbone's classifier, read as evidence: what each pixel of its last feature map says for a class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abn.modules.linear import is_plain, without_bias


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
        ValueError: If an activation works in place, or no layer is linear.

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
        sizes = [
            layer.out_features if isinstance(layer, nn.Linear) else layer.normalized_shape[0]
            for layer in layers
            if isinstance(layer, (nn.Linear, nn.LayerNorm))
        ]
        if not sizes:
            raise ValueError("the layers are without a linear layer, expected one that makes the scores")
        # What each layer is, which does not show any more when a tool has put another around it.
        self._linear = [isinstance(layer, nn.Linear) for layer in layers]
        self._eps = [layer.eps if isinstance(layer, nn.LayerNorm) else None for layer in layers]
        self.out_channels: int = sizes[-1]
        """Number of classes K, as the convolution of a new branch calls it."""

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
        received = [pooled]
        for layer in self.layers[:-1]:
            received.append(layer(received[-1]))
        weights = shares
        for layer, values in zip(reversed(self.layers), reversed(received), strict=True):
            weights = _backwards(layer, values, weights)
        return weights

    def is_plain(self) -> bool:
        """Whether :meth:`weights` can read the layers' weights, see :func:`abn.modules.linear.is_plain`."""
        kinds = zip(self.layers, self._linear, self._eps, strict=True)
        return all(is_plain(layer) for layer, linear, eps in kinds if linear or eps is not None)

    def evidence(self, pooled: Tensor, features: Tensor) -> Tensor:
        """The evidence for each class at each pixel, less a constant, by calls of the layers alone.

        It takes as much work for each pixel as :meth:`weights` takes for an image.

        Args:
            pooled: (B, C).
            features: (B, C, h, w).

        Returns:
            (B, K, h, w). With each class's share as its weight, the sum is that of the features with
            :meth:`weights`.
        """
        pixels = features.flatten(2).transpose(1, 2)  # (B, h·w, C)
        for layer, linear, eps in zip(self.layers, self._linear, self._eps, strict=True):
            if linear:
                pixels = without_bias(layer, pixels)
            elif eps is not None:
                pixels = _normalised(layer, eps, pooled, pixels)
            else:
                pixels = pixels * _factor(layer, pooled)[:, None]
            pooled = layer(pooled)
        return pixels.transpose(1, 2).reshape(*pixels.shape[::2], *features.shape[2:])


def _normalised(norm: nn.Module, eps: float, received: Tensor, pixels: Tensor) -> Tensor:
    """What a layer norm makes of pixels (B, N, C), with the scale that it has for the pooled (B, C)."""
    scale = torch.rsqrt(received.var(dim=1, correction=0) + eps)[:, None, None]
    # Its weight shows in what it makes of a vector and of the vector's negative.
    probe = torch.ones_like(received[0])
    probe[::2] = -1
    weight = (norm(probe) - norm(-probe)) / (2 * F.layer_norm(probe, probe.shape, eps=eps))
    normalised: Tensor = (pixels - pixels.mean(dim=2, keepdim=True)) * scale * weight
    return normalised


def _backwards(layer: nn.Module, received: Tensor, weights: Tensor) -> Tensor:
    """Weights of a layer's outputs to those of its inputs."""
    if isinstance(layer, nn.Linear):
        return torch.mm(weights, layer.weight)
    if isinstance(layer, nn.LayerNorm):
        scale = torch.rsqrt(received.var(dim=1, correction=0, keepdim=True) + layer.eps)
        weights = weights * scale if layer.weight is None else weights * scale * layer.weight
        return weights - weights.mean(dim=1, keepdim=True)
    return weights * _factor(layer, received)


def _factor(activation: nn.Module, received: Tensor) -> Tensor:
    """What an activation multiplies its input by; at 0 that of a number close by."""
    received = torch.where(received.abs() < 1e-4, 1e-4, received)
    activated: Tensor = activation(received)
    return activated / received
