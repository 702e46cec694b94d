"""The places where a backbone can be cut, as users see them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """A place where a backbone can be cut."""

    name: str
    """Name of the submodule after which to cut, or of a function in the forward, such as ``relu()``."""
    channels: int
    height: int
    width: int
    stride: int
    """Pixels of the image per pixel of the features, along the height."""
    default: bool
    """Whether :func:`abn.wrap_backbone` cuts here unless told otherwise."""


class Splits(tuple[Split, ...]):
    """The places where a backbone can be cut, from the images to the logits. Prints as a table."""

    image_size: tuple[int, int]
    """Height and width of the images. The sizes of the features are for these images."""
    classifier: str
    """The layers of the backbone's classifier, if an attention branch can start from it. Otherwise empty."""

    def __str__(self) -> str:
        column = max(len("split"), *(len(split.name) for split in self))
        lines = [f"{'split':<{column}}  channels  stride  height × width"]
        for split in self:
            line = f"{split.name:<{column}}  {split.channels:>8}  {split.stride:>6}"
            line += f"  {split.height:>6} × {split.width}"
            lines.append(line + "  ← default" if split.default else line)
        start = f"the classifier: {self.classifier}" if self.classifier else "new heads, which need training"
        height, width = self.image_size
        where = f"for images of {height} × {width}"
        lines.append(f"{where}; maps are as fine, or coarser where a stage keeps its stride")
        return "\n".join([*lines, f"attention branch starts from {start}"])

    __repr__ = __str__
