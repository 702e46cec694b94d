"""The network: a feature extractor, an attention branch and a perception branch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import _register_namedtuple

from abn.modules.features import Features
from abn.modules.inputs import check_images, check_range, explain_failure
from abn.modules.maps import kind_of
from abn.preprocessing import Preprocessing
from abn.saving import push, save


class ABNOutput(NamedTuple):
    """Output of an :class:`ABN`; unpacks like a tuple."""

    attention_logits: Tensor
    """Scores of the attention branch: (B, K); for T tasks (B, T), or (B, K, T) if each task has K classes.
    With ``map="response"`` or ``"scaled_response"`` always (B, T)."""
    perception_logits: Tensor
    """Scores of the perception branch, the network's prediction: (B, K), (B, T) or (B, K, T)."""
    attention_map: Tensor
    """Where the network looked, in [0, 1]: (B, 1, h, w), or one map per task, (B, T, h, w). Official networks
    may have other ranges: ``"log_sum"`` maps are at least 0, response maps have any sign."""


# Without this, torch.export.save() refuses a network that returns an ABNOutput.
_register_namedtuple(ABNOutput, serialized_type_name="abn.ABNOutput")


class ABN(nn.Module):
    """Attention Branch Network: a classifier that computes its visual explanation as it classifies.

    Fukui, Hirakawa, Yamashita and Fujiyoshi, "Attention Branch Network: Learning of Attention Mechanism
    for Visual Explanation", CVPR 2019, `arXiv:1812.10025 <https://arxiv.org/abs/1812.10025>`_.

    :func:`abn.wrap_backbone` makes an ABN from a backbone. Any three modules that fit together make one, too.

    Args:
        feature_extractor: Takes images (B, C, H, W) and returns features (B, C', h, w), or
            :class:`abn.modules.features.Features` if both branches need more than a feature map.
        attention_branch: Takes features and returns ``(attention_logits, attention_map)``, such as
            :class:`abn.AttentionBranch`.
        perception_branch: Takes ``(features, attention_map)`` and returns logits, such as
            :class:`abn.PerceptionBranch`.

    Example:
        >>> from abn import AttentionBranch, PerceptionBranch
        >>> model = ABN(
        ...     nn.Conv2d(3, 16, kernel_size=3, stride=2),
        ...     AttentionBranch(in_channels=16, num_classes=10),
        ...     PerceptionBranch(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))),
        ... )
        >>> attention_logits, perception_logits, attention_map = model(torch.randn(2, 3, 33, 33))
        >>> perception_logits.shape, attention_map.shape
        (torch.Size([2, 10]), torch.Size([2, 1, 16, 16]))
    """

    in_channels: int | None = None
    """Number of channels of the images that the network was made for, if known."""

    def __init__(
        self, feature_extractor: nn.Module, attention_branch: nn.Module, perception_branch: nn.Module
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.attention_branch = attention_branch
        self.perception_branch = perception_branch
        self.built_with: dict[str, Any] | None = None
        """The arguments that build this network, of :func:`abn.wrap_backbone` or of the builder named under
        ``"model"``. None if no name builds it. (Not named ``config``, which transformers would take for its
        own.)"""
        self.stage: str | None = None
        """Kind of the attention branch's stage, for the configuration. None for a user's own module."""
        self.preprocessing: Preprocessing | None = None
        """Preprocessing of the images for this network, if known. Saved with the network."""
        self.classes: Sequence[str] | None = None
        """Names of the K classes, or of the tasks, if known. Saved with the network."""

    def forward(self, images: Tensor, attention_map: Tensor | None = None) -> ABNOutput:
        """Classifies the images.

        Args:
            images: (B, C, H, W), floating point, normalised as the backbone expects.
            attention_map: Replaces the computed map in the attention mechanism, for example by a map that a
                person edited, or by a mask. (B, 1, h, w) or (B, h, w), of any resolution; B = 1 gives all
                images one map. For several tasks (B, T, h, w); T = 1 gives all tasks one map. Bool, or
                floating point; from 0 to 1 if the network's own maps are in this range.

        Returns:
            ``(attention_logits, perception_logits, attention_map)``. The returned map is always the computed
            map, which can thus be compared with the argument ``attention_map``, or trained towards it.

        Raises:
            TypeError: If the images are no tensor, or not floating point.
            ValueError: If the images are not (B, C, H, W) with as many channels as the network was made for,
                are not finite, or are so small that their features have a single pixel; or if
                ``attention_map`` has another shape, type or range. Values are checked on the CPU alone, and
                not in a compiled or exported model: on other devices every call would wait for the device.
        """
        if not torch.compiler.is_compiling():
            check_images(images)
            kind = kind_of(self.attention_branch)
            if attention_map is not None and kind is not None and kind.bounded:
                check_range(attention_map, "attention_map")
        features = self._features(images)
        attention_logits, computed_map = self.attention_branch(features)
        perception_logits = self.perception_branch(
            features, computed_map if attention_map is None else attention_map
        )
        return ABNOutput(attention_logits, perception_logits, computed_map)

    def _features(self, images: Tensor) -> Tensor | Features:
        if torch.compiler.is_compiling():
            features: Tensor | Features = self.feature_extractor(images)
            return features
        try:
            features = self.feature_extractor(images)
        except RuntimeError as error:
            weight = next(self.feature_extractor.parameters(), None)
            explain_failure(images, self.in_channels, None if weight is None else weight.dtype, error)
            raise
        return features

    def class_map(self, images: Tensor, classes: int | Tensor) -> Tensor:
        """Computes the map of the evidence for a class, which need not be the predicted class.

        Runs the feature extractor and the attention branch once. A call of the network, in contrast, returns
        the map of all classes, each weighted by the probability that the attention branch gives it.

        Args:
            images: (B, C, H, W), as for a call of the network.
            classes: One class for all images, or one class for each image, (B,).

        Returns:
            (B, 1, h, w), from 0 to its maximum of 1; 0 everywhere if no pixel has evidence for the class.

        Raises:
            TypeError: If the images are no tensor, or not floating point.
            ValueError: If the images are not (B, C, H, W) or not finite, if a class does not exist, or if the
                network's map is not made of evidence for classes, as the maps of official networks and of
                several tasks are not.

        Example:
            >>> from abn import abn_resnet18
            >>> model = abn_resnet18(num_classes=10).eval()
            >>> model.class_map(torch.randn(2, 3, 64, 64), 7).shape
            torch.Size([2, 1, 4, 4])
        """
        branch: Any = self.attention_branch
        kind = kind_of(branch)
        if kind is None or kind.of_evidence is None or hasattr(branch, "tasks"):
            raise ValueError(
                f"the map of this {type(branch).__name__} ({getattr(kind, 'name', None)!r}) is not made of "
                "evidence for classes, expected an AttentionBranch with map='evidence'"
            )
        if not torch.compiler.is_compiling():
            check_images(images)
        count = branch.num_classes
        try:
            chosen = torch.as_tensor(classes, device=images.device)
        except (TypeError, ValueError, RuntimeError):
            chosen = torch.tensor(-1)
        fits = chosen.ndim == 0 or chosen.shape == images.shape[:1]
        whole = not chosen.is_floating_point() and not chosen.is_complex()
        if not fits or not whole or not bool(((chosen >= 0) & (chosen < count)).all()):
            raise ValueError(
                f"classes are {classes!r}, expected one number from 0 to {count - 1}, or one for each of "
                f"{len(images)} images"
            )
        responses = branch.responses(self._features(images))
        shares = F.one_hot(chosen.long().expand(len(images)), count).to(responses.dtype)
        attention_map: Tensor = branch.class_activation(responses, shares)
        return attention_map

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int]]:
        """Tells the depth of each parameter. timm makes layer-wise learning rates of it (``layer_decay=``).

        Parameters whose names are equal up to their first number, such as ``layer3.4`` or ``stages.2``, count
        as one layer. The attention branch's stage and the perception branch begin where the feature extractor
        ends. All heads of the attention branch are as deep as the deepest layer.

        Args:
            coarse: Counts the feature extractor and each branch as one layer.

        Returns:
            A function that takes the name of a parameter and returns ``(depth,)``.
        """

        def block(name: str) -> str:
            part, *path = name.split(".")
            numbered = next((i for i, step in enumerate(path) if step.isdigit()), 0)
            return ".".join([part] if coarse else [part, *path[: numbered + 1]])

        def blocks(part: str) -> list[str]:
            names = (name for name, _ in self.named_parameters() if name.startswith(part))
            return list(dict.fromkeys(map(block, names)))

        depths = {name: i for i, name in enumerate(blocks("feature_extractor"))}
        start = len(depths)
        for branch in ("attention_branch.stage", "perception_branch"):
            depths |= {name: start + i for i, name in enumerate(blocks(branch))}
        deepest = max(depths.values(), default=0)
        return lambda name: (depths.get(block(name), deepest),)

    def save_pretrained(self, directory: str | Path) -> None:
        """Saves the network where :func:`abn.hub.load` finds it: ``config.json`` and ``model.safetensors``.

        ``config.json`` holds the names and keyword arguments that built the network, its ``preprocessing``
        and its ``classes``. ``model.safetensors`` holds the weights. A layer that was replaced after building
        does not come back. Nothing is pickled, and each file is written in full or not at all.

        Args:
            directory: Folder for the files, made if it does not exist.

        Raises:
            ValueError: If the network was not built by name, with ``wrap_backbone("timm/...")`` or a builder
                such as ``abn_resnet50``, if JSON cannot hold an argument that it was built with, or if
                ``classes`` are not one name for each class or task.
        """
        save(self, Path(directory))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        license: str | None = None,
        dataset: str | None = None,
        accuracy: float | None = None,
    ) -> str:
        """Saves the network in a repository of the Hugging Face Hub, made if it does not exist.

        A repository that has no README gets a model card, of what is known.

        Args:
            repo_id: ``"owner/name"``.
            private: Whether a new repository is private. Default: the owner's own setting, mostly public.
            token: Access token. Default: the token of ``hf auth login``.
            license: Licence of the weights, as the Hub names it, such as ``"apache-2.0"``, for the card.
            dataset: Name of the data that the network was trained with, for the card.
            accuracy: Top-1 accuracy on the test images of this data, 0 to 1, for the card.

        Returns:
            The address of the commit.

        Raises:
            ValueError: As in :meth:`save_pretrained`, or if ``accuracy`` is not within 0 and 1.
        """
        facts = {"license": license, "dataset": dataset, "accuracy": accuracy}
        return push(self, repo_id, private, token, facts)


class LogitsOnly(nn.Module):
    """Wraps an :class:`ABN` for tools that expect one tensor of logits: Captum, grad-cam, torch-cam, ...

    The network stays available as ``model``, for tools that ask for one of its layers.

    Args:
        model: Network to wrap. It is shared, not copied.

    Example:
        >>> from abn import abn_resnet18
        >>> view = LogitsOnly(abn_resnet18(num_classes=10).eval())
        >>> layer = view.model.perception_branch.tail.layer4  # the layer for Grad-CAM
        >>> view(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, model: ABN) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # Quantus, for one, refuses a network in training mode

    def forward(self, images: Tensor) -> Tensor:
        """Returns the ``perception_logits`` of :class:`ABNOutput` for images (B, C, H, W)."""
        output: ABNOutput = self.model(images)
        return output.perception_logits
