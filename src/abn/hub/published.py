"""The table of published weights."""

from dataclasses import dataclass

from abn.preprocessing import Preprocessing


@dataclass(frozen=True)
class Weights:
    """Published weights, and where to find them."""

    name: str
    """Name for :func:`abn.hub.load`."""
    model: str
    """Name of the network's builder. The builder's arguments are read off the file."""
    dataset: str
    """What the network was trained on."""
    error: float | None
    """Top-1 error in percent, as published."""
    plain_error: float | None
    """Top-1 error in percent of the network without an attention branch, as published."""
    page: str
    """Where a browser finds the file: a folder or a file of Google Drive."""
    source: str
    """The project on GitHub that published it."""
    licence: str
    """Licence of the project's code. No project states a licence for its weights."""
    layout: str
    """``"official"``: the official code wrote the file. ``"unverified"``: other code wrote it, whose networks
    have the layout of the official ones. We have not seen the file."""
    preprocessing: Preprocessing | None = None
    """Preprocessing, if it differs from the official code's for ImageNet or CIFAR."""
    size: int | None = None
    """Size of the file in bytes, if known."""
    sha256: str | None = None
    """SHA-256 digest of the file, if known."""
    tasks: int | None = None
    """Number of tasks, if there are several."""
    mechanism: str | None = None
    """The attention mechanism, if the file does not tell it."""


class Published(tuple[Weights, ...]):
    """All published weights. Prints as a table."""

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("name", "dataset", "error", "plain", "layout", "licence", "source")]
        for entry in self:
            errors = ["?" if error is None else f"{error} %" for error in (entry.error, entry.plain_error)]
            rows.append((entry.name, entry.dataset, *errors, entry.layout, entry.licence, entry.source))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


_FOLDER = "https://drive.google.com/drive/folders/"
_FILE = "https://drive.google.com/file/d/"
_LAB = "machine-perception-robotics-group"
_OFFICIAL = (f"{_LAB}/attention_branch_network", "MIT", "official")
_GALS = ("spetryk/GALS", "none", "unverified")
_CELEBA = (f"{_LAB}/ABN_CelebA_PyTorch", "MIT", "official")
_EDITOR = (f"{_LAB}/AttentionEditorABN", "MIT", "unverified")
_WHOLE = Preprocessing(resize=(224, 224))
_HALF = Preprocessing(resize=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

# fmt: off
PUBLISHED = Published([
    Weights("abn_resnet110_cifar100", "abn_cifar_resnet", "CIFAR-100", 22.5, 24.1, _FOLDER + "1Wp7_tIXjq24KSI2VaL9V2N8NRlASLETD", *_OFFICIAL),
    Weights("abn_densenet_cifar100", "abn_cifar_densenet", "CIFAR-100", 21.6, 22.5, _FOLDER + "17ILqWvDJzFFZ603CpeoGaYrt6mhUF-B5", *_OFFICIAL),
    Weights("abn_wide_resnet_cifar100", "abn_cifar_wide_resnet", "CIFAR-100", 18.1, 18.9, _FOLDER + "1GRDwdtUV2Q2LhDL0NZyzh5b4pj4CEJtv", *_OFFICIAL),
    Weights("abn_resnext_cifar100", "abn_cifar_resnext", "CIFAR-100", 17.7, 18.3, _FOLDER + "1CIneC_Y1P_sYEgndC8mR-sAJlS-2eJg5", *_OFFICIAL),
    Weights("abn_resnet50", "abn_resnet50", "ImageNet", 23.1, 24.1, _FOLDER + "1SRtzbnE-IpB5talp7PLNK1mzMV3UPQNV", *_OFFICIAL),
    Weights("abn_resnet101", "abn_resnet101", "ImageNet", 21.8, 22.5, _FOLDER + "1B5jBHTfskKAgNpsFm9iADn1lskn2UWyk", *_OFFICIAL),
    Weights("abn_resnet152", "abn_resnet152", "ImageNet", 21.4, 22.2, _FOLDER + "1ZFq0ubZitsuOwPhrQopQOqVW5-KXflFr", *_OFFICIAL),
    Weights("abn_multitask_resnet101_celeba", "abn_resnet101", "CelebA, 40 attributes", None, None, _FILE + "18oy-0S4EYmp3ySVi30zW8lmoZsMPXYxT", *_CELEBA, tasks=40, mechanism="multiplicative"),
    Weights("abn_multitask_resnet101_celeba_v1", "abn_resnet101", "CelebA, 40 attributes", None, None, _FILE + "1U3edI1ml88akuikKFmz4cYGSR5MOdtmt", *_CELEBA, tasks=40, mechanism="multiplicative"),  # of tag v1.0: two values per task
    Weights("abn_resnet50_mirror", "abn_resnet50", "ImageNet", 23.1, 24.1, _FILE + "12ca2mlKWeft-VNsjsFnhkxNnb2XyzfbZ", *_GALS),  # a copy of the official file
    Weights("abn_resnet50_waterbirds100", "abn_resnet50", "Waterbirds-100", None, None, _FILE + "1_UR4YUqwwRUHOZ4OxNjfHQMa5qyk-y2N", *_GALS, _WHOLE),
    Weights("abn_resnet50_waterbirds95", "abn_resnet50", "Waterbirds-95", None, None, _FILE + "1nknUUhWHLADGlu-pOcGHnaswc00ZUC7y", *_GALS, _WHOLE),
    Weights("abn_resnet50_food", "abn_resnet50", "Food-101, 5 classes", 30.7, 30.8, _FILE + "1v2dK8liDRI69OdZep3UCBlr_lMk69ErG", *_GALS, _WHOLE),
    Weights("abn_resnet50_coco", "abn_resnet50", "COCO-ApparentGender", None, None, _FILE + "1PGf7-0UPL8BePOJpBa9WWGZtNrItjrjk", *_GALS, _WHOLE),
    Weights("abn_resnet18_cub", "abn_resnet18", "CUB-200-2010", None, None, _FILE + "1SGlBahck_F8CkBmfxkCCjBjA_2UT_t1v", *_EDITOR, _HALF),
    Weights("abn_resnet34_cub", "abn_resnet34", "CUB-200-2010", None, None, _FILE + "1u0HI9FXjoO_WH4JLQvqE_ZEvp_0WD-PH", *_EDITOR, _HALF),
    Weights("abn_resnet50_cub", "abn_resnet50", "CUB-200-2010", None, None, _FILE + "15it2_wGo41FRFlrTMJR66Ve42P1lJNDr", *_EDITOR, _HALF),
])
# fmt: on

CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open",
    "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
"""Names of the 40 tasks of the official multi-task networks, in the order of the networks' outputs."""
