"""Reads a backbone's classifier as evidence: how much each pixel of the last feature map adds to a class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abn.modules.linear import is_plain, without_bias


class PooledClassifier(nn.Module):
    r"""Classifies pooled features, and computes how much each channel counts for a class.

    Most classifiers average the last feature map over its pixels and apply linear layers to the mean z, some
    with a layer norm or an activation between them. With linear layers alone, the logits are
    :math:`W z + b`. This is the mean over the pixels p of :math:`W f_p + b`, where :math:`f_p` are the
    features of p: the evidence for the classes at p (class activation mapping, Zhou et al., CVPR 2016). A
    layer norm or an activation multiplies its input by factors that depend on z. The factors
    are equal for all pixels, so that the mean of the evidence is the logit in this case, too.

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
        if not any(isinstance(layer, nn.Linear) for layer in layers):
            raise ValueError("the layers are without a linear layer, expected one that makes the scores")
        # Stored, since a tool may later replace a layer by a wrapper of another class.
        self._linear = [isinstance(layer, nn.Linear) for layer in layers]
        self._eps = [layer.eps if isinstance(layer, nn.LayerNorm) else None for layer in layers]
        self.out_channels: int = sizes[-1]
        """Number of classes K, named as in ``nn.Conv2d``, the classifier of :class:`abn.AttentionBranch`."""

    def summary(self) -> str:
        """Names the layers in one line, such as ``LayerNorm(768), Linear(768, 1000)``."""

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
        """Subtracts the mean over the classes from the last layer's weights, which changes no softmax.

        For new classes: by chance their random weights have a common part. With few classes, the common part
        would outweigh in the evidence the part in which the classes differ. Changes nothing if there is one
        output, or if the last layer is not linear.
        """
        last = self.layers[-1]
        if isinstance(last, nn.Linear) and last.out_features > 1:
            last.weight -= last.weight.mean(dim=0)

    def forward(self, pooled: Tensor) -> Tensor:
        """Computes logits (B, K) from pooled features (B, C)."""
        for layer in self.layers:
            pooled = layer(pooled)
        return pooled

    def weights(self, pooled: Tensor, shares: Tensor) -> Tensor:
        """Computes how much each channel counts for given classes.

        Args:
            pooled: Pooled features, (B, C).
            shares: Weight of each class, (B, K): one-hot for a single class, or probabilities.

        Returns:
            Weight of each channel, (B, C). The weighted sum of a pixel's features, plus a constant, is the
            evidence at this pixel.
        """
        received = [pooled]
        for layer in self.layers[:-1]:
            received.append(layer(received[-1]))
        weights = shares
        for layer, values in zip(reversed(self.layers), reversed(received), strict=True):
            weights = _backwards(layer, values, weights)
        return weights

    def is_plain(self) -> bool:
        """Tells whether :meth:`weights` can read the layers, see :func:`abn.modules.linear.is_plain`."""
        kinds = zip(self.layers, self._linear, self._eps, strict=True)
        return all(is_plain(layer) for layer, linear, eps in kinds if linear or eps is not None)

    def evidence(self, pooled: Tensor, features: Tensor) -> Tensor:
        """Computes the evidence for each class at each pixel, less a constant, by calling the layers alone.

        It takes as much work for each pixel as :meth:`weights` takes for an image.

        Args:
            pooled: Pooled features, (B, C).
            features: (B, C, h, w).

        Returns:
            (B, K, h, w). The sum over the classes, weighted with any ``shares``, equals the sum of the
            features over the channels, weighted with ``weights(pooled, shares)``.
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
    """Applies a layer norm, without its bias, to pixels (B, N, C), scaled as for pooled features (B, C)."""
    scale = torch.rsqrt(received.var(dim=1, correction=0) + eps)[:, None, None]
    # The weight may be out of reach, but calls show it: the outputs for a vector and for its negative differ
    # by twice the weight times the normalised vector.
    probe = torch.ones_like(received[0])
    probe[::2] = -1
    weight = (norm(probe) - norm(-probe)) / (2 * F.layer_norm(probe, probe.shape, eps=eps))
    normalised: Tensor = (pixels - pixels.mean(dim=2, keepdim=True)) * scale * weight
    return normalised


def _backwards(layer: nn.Module, received: Tensor, weights: Tensor) -> Tensor:
    """Computes the weights of a layer's inputs from the weights of its outputs."""
    if isinstance(layer, nn.Linear):
        return torch.mm(weights, layer.weight)
    if isinstance(layer, nn.LayerNorm):
        scale = torch.rsqrt(received.var(dim=1, correction=0, keepdim=True) + layer.eps)
        weights = weights * scale if layer.weight is None else weights * scale * layer.weight
        return weights - weights.mean(dim=1, keepdim=True)
    return weights * _factor(layer, received)


def _factor(activation: nn.Module, received: Tensor) -> Tensor:
    """Returns the factor by which an activation multiplies its input; near 0, the factor at 0.0001."""
    received = torch.where(received.abs() < 1e-4, 1e-4, received)
    activated: Tensor = activation(received)
    return activated / received
