"""The attention branch: from features to class scores and one attention map."""

import torch
from torch import Tensor, nn

from abn.modules.inputs import check_counts, check_features
from abn.modules.linear import is_plain, without_bias
from abn.modules.maps import MAPS, check_map
from abn.modules.pooled_classifier import PooledClassifier


class AttentionBranch(nn.Module):
    r"""Scores the classes and shows where it looked, from the same class responses.

    ::

        features ─► stage ─► BN ─► 1×1 conv C→R ─► BN ─► ReLU = responses r; R = K, one channel per class
                                   r ─► average pool ─► 1×1 conv R→K ─► attention_logits
                                   r ─► one of the maps below ────────► attention_map

    The scores are those of the official code, with which the published numbers were made. It differs from
    the figure in the paper (Fukui et al., "Attention Branch Network", CVPR 2019, section 3.1) in a batch
    norm behind the convolution to R channels. The responses are pooled before the R→K convolution instead
    of after it: the two commute, and pooling first costs K·R per image instead of per pixel. That
    convolution starts from ten times the identity, so that each response stands for one class from the
    first step on, and one that fills a tenth of the image counts in full. From small random weights, as in
    the official code, this branch lags behind the other for many epochs.

    The maps:

    - ``"evidence"``: the evidence for the classes that the branch sees. A pixel's evidence for class c is
      :math:`e_c = \sum_k W_{ck} r_k` with W the weights of the R→K convolution, so that the score of c is the
      mean of :math:`e_c` over the pixels: its class activation (Zhou et al., "Learning Deep Features for
      Discriminative Localization", CVPR 2016). With the branch's own probabilities p, A is
      :math:`\sum_c p_c \, e_c`, where it is positive, averaged twice over 3×3 pixels and divided by its
      maximum. The map is :math:`A^6 / (A^6 + h^6 (1 - A^6))` with h = 0.5: near 1 on what decides, near 0 on
      what hardly counts, and one half at half the maximum. It adds no weights, and cannot become inverted,
      which the two others can. It says where, not how much: its maximum is always 1.
      docs/photos.md and docs/explanations.md have the figures.
    - ``"class_activation"``: the same, averaged once, with a power of 4 and h = 0.25. For networks that are
      trained from nothing. On photographs it is near 1 over a third of the image.
    - ``"convolution"``: 3×3 conv R→1, BN, sigmoid, as in the official code and the published weights (the
      paper draws a 1×1 convolution). Here the convolution starts from one positive constant instead of
      random signs, so that a new map begins as the mean class response and not, by chance, as its negative.
    - ``"log_sum"``: :math:`\sum_k \log(1 + r_k)`, as in the official code's SE-ResNets. No upper bound.

    Args:
        in_channels: Channels that the heads read: those of the stage's output, or those of the
            features where there is no stage.
        num_classes: Number of classes K.
        stage: Runs on the features first. In the paper a copy of the backbone's last stage at
            stride 1. ``None`` lets the heads read the features as they are.
        map: How the responses become the map.
        response_channels: Number R of response channels, if not one per class. Default: K; 16 for a single
            output, which else would be told from one channel; and 2048 for more classes than that, since the
            scores have K·R weights: with the 21841 classes of ImageNet-21k and R = K, half a billion.

    Raises:
        ValueError: If a number is below one, or there is no such map.

    Example:
        >>> import torch
        >>> branch = AttentionBranch(in_channels=256, num_classes=10)
        >>> attention_logits, attention_map = branch(torch.randn(2, 256, 14, 14))
        >>> attention_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 14, 14]))
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        stage: nn.Module | None = None,
        *,
        map: str = "class_activation",
        response_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_map(map, several_tasks=False)
        check_counts(in_channels=in_channels, num_classes=num_classes, response_channels=response_channels)
        response_channels = response_channels or default_response_channels(num_classes)
        self.stage = nn.Identity() if stage is None else stage
        self.norm = nn.BatchNorm2d(in_channels)
        self.response_conv = nn.Conv2d(in_channels, response_channels, kernel_size=1, bias=False)
        self.response_norm = nn.BatchNorm2d(response_channels)
        self.classifier = nn.Conv2d(response_channels, num_classes, kernel_size=1, bias=False)
        with torch.no_grad():
            if response_channels == num_classes:
                nn.init.dirac_(self.classifier.weight).mul_(10)
            else:
                # No response stands for one class, but the weights of each are as long; their sum is 0, or
                # the mean response, which is never negative, would set each score off by chance.
                nn.init.normal_(self.classifier.weight, std=10 * max(response_channels - 1, 1) ** -0.5)
                self.classifier.weight -= self.classifier.weight.mean(dim=1, keepdim=True)
        self.num_classes: int | None = num_classes
        self.response_channels = None if response_channels == num_classes else response_channels
        self.map = map
        if (add_layers := MAPS[map].add_layers) is not None:
            add_layers(self, response_channels)

    def extra_repr(self) -> str:
        return f"map={self.map!r}"

    def responses(self, features: Tensor) -> Tensor:
        """Class responses r, from which the scores and the map are computed.

        Args:
            features: (B, C, H, W).

        Returns:
            (B, R, h, w), at least 0; h and w are those of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        check_features(features)
        responses: Tensor = self.response_norm(self.response_conv(self.norm(self.stage(features)))).relu()
        return responses

    def class_activation(self, responses: Tensor, shares: Tensor) -> Tensor:
        """Where the evidence is for some classes.

        With this, one forward pass gives the map of any class::

            responses = branch.responses(features)
            branch.class_activation(responses, F.one_hot(classes, K).float())  # classes (B,)

        Args:
            responses: (B, R, h, w), from :meth:`responses`.
            shares: (B, K), of each class in what is looked for, adding up to 1: one-hot for a single class,
                or probabilities.

        Returns:
            (B, 1, h, w), from 0 to its maximum of 1; 0 everywhere if no pixel speaks for these classes.
        """
        if is_plain(self.classifier):  # K times less work than a call for each pixel
            weights = shares @ self.classifier.weight.flatten(1)  # (B, R)
            return _map_of(self.map, weights, responses)
        return _map_of(self.map, shares, without_bias(self.classifier, responses))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the class scores and the attention map.

        Args:
            features: (B, C, H, W).

        Returns:
            ``attention_logits`` (B, K) and ``attention_map`` (B, 1, h, w), in [0, 1] or, as a
            ``"log_sum"``, at least 0; h and w are those of the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        responses = self.responses(features)  # (B, R, h, w)
        attention_logits = self.classifier(responses.mean(dim=(2, 3), keepdim=True)).flatten(1)  # (B, K)
        if (of_responses := MAPS[self.map].of_responses) is not None:
            return attention_logits, of_responses(self, responses)
        # Which classes are shown is not to be learned from how the map serves the other branch.
        shares = attention_logits.detach().softmax(dim=1).to(responses.dtype)
        return attention_logits, self.class_activation(responses, shares)


class PretrainedAttentionBranch(nn.Module):
    r"""Scores the classes and shows where it looked, with the classifier of a pretrained backbone.

    ::

        features ─► stage ─► responses r ─► average pool ─► classifier ─► attention_logits
                                         └─► evidence for the classes ──► attention_map

    What the classifier says of each pixel of the last feature map is the evidence for each class there, and
    its mean the scores: see :class:`abn.PooledClassifier`. So the branch is as good as the backbone from the
    start. It is the branch of Fukui et al., CVPR 2019, section 3.1, with the backbone's own layers in the
    place of new ones, which would have to be trained first: :class:`AttentionBranch`.

    Args:
        classifier: Takes the pooled output of the stage to scores.
        stage: Runs on the features first: the backbone's part from there to the last feature map. ``None``
            if there is nothing between.
        map: ``"evidence"`` or ``"class_activation"``, see :class:`AttentionBranch`.

    Raises:
        ValueError: If the map is not made of evidence.

    Example:
        >>> branch = PretrainedAttentionBranch(PooledClassifier([nn.Linear(256, 10)]))
        >>> attention_logits, attention_map = branch(torch.randn(2, 256, 14, 14))
        >>> attention_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 14, 14]))
    """

    def __init__(
        self, classifier: PooledClassifier, stage: nn.Module | None = None, *, map: str = "evidence"
    ) -> None:
        super().__init__()
        check_map(map, several_tasks=False)
        if MAPS[map].of_evidence is None:
            raise ValueError(
                f"map is {map!r}, which needs layers that no backbone has: start the branch anew, with "
                "AttentionBranch or start='new'"
            )
        self.stage = nn.Identity() if stage is None else stage
        self.classifier = classifier
        self.num_classes = classifier.out_channels
        self.map = map

    def extra_repr(self) -> str:
        return f"map={self.map!r}"

    def responses(self, features: Tensor) -> Tensor:
        """What the scores and the map are computed from: the stage's output.

        Args:
            features: (B, C, H, W).

        Returns:
            (B, C', h, w).

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        check_features(features)
        responses: Tensor = self.stage(features)
        return responses

    def class_activation(self, responses: Tensor, shares: Tensor) -> Tensor:
        """Where the evidence is for some classes. As :meth:`AttentionBranch.class_activation`."""
        pooled = responses.mean(dim=(2, 3))
        if self.classifier.is_plain():
            return _map_of(self.map, self.classifier.weights(pooled, shares), responses)
        return _map_of(self.map, shares, self.classifier.evidence(pooled, responses))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the class scores and the attention map.

        Args:
            features: (B, C, H, W).

        Returns:
            ``attention_logits`` (B, K) and ``attention_map`` (B, 1, h, w), in [0, 1]; h and w are those of
            the stage's output.

        Raises:
            ValueError: If the features are not (B, C, H, W) or have a single pixel.
        """
        responses = self.responses(features)  # (B, C', h, w)
        attention_logits = self.classifier(responses.mean(dim=(2, 3)))  # (B, K)
        # Which classes are shown is not to be learned from how the map serves the other branch.
        shares = attention_logits.detach().softmax(dim=1).to(responses.dtype)
        return attention_logits, self.class_activation(responses, shares)


def _map_of(kind: str, weights: Tensor, channels: Tensor) -> Tensor:
    """The map (B, 1, h, w) of the sum of channels (B, R, h, w), each with its weight (B, R)."""
    of_evidence = MAPS[kind].of_evidence
    assert of_evidence is not None
    evidence = (weights[:, :, None, None] * channels).sum(dim=1, keepdim=True, dtype=torch.float32)
    return of_evidence(evidence).to(channels.dtype)


def default_response_channels(num_classes: int) -> int:
    """One per class; but 16 for a single output, and 2048 at most, since there are K·R weights."""
    return 16 if num_classes == 1 else min(num_classes, 2048)
