"""The table of published weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Weights:
    """Weights that somebody published, and where."""

    name: str
    """For :func:`abn.hub.load`."""
    model: str
    """The builder of the network; its arguments are read off the file."""
    dataset: str
    """What the network was trained on."""
    error: float | None
    """Top-1 error in percent, as published."""
    plain_error: float | None
    """That of the same network without an attention branch, as published."""
    source: str
    """The project on GitHub that published it."""
    licence: str
    """What the project says of its code; none says anything of its weights."""
    page: str
    """Where a browser finds the file: a folder or a file of Google Drive."""
    layout: str
    """``"official"``: written by the official code. ``"unverified"``: by code whose networks have the same
    layout, and nobody here has seen the file."""
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    """Digest of the file, where known."""


class Published(tuple[Weights, ...]):
    """Published weights. Prints as a table."""

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("name", "dataset", "error", "plain", "layout", "licence", "source")]
        for entry in self:
            errors = ["?" if error is None else f"{error} %" for error in (entry.error, entry.plain_error)]
            rows.append((entry.name, entry.dataset, *errors, entry.layout, entry.licence, entry.source))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


_Row = tuple[str, str, str, str, float | None, float | None]

# fmt: off
_OFFICIAL: list[_Row] = [  # name, builder, data set, folder of Google Drive, errors with and without attention branch
    ("abn_resnet110_cifar100", "abn_cifar_resnet", "CIFAR-100", "1Wp7_tIXjq24KSI2VaL9V2N8NRlASLETD", 22.5, 24.1),
    ("abn_densenet_cifar100", "abn_cifar_densenet", "CIFAR-100", "17ILqWvDJzFFZ603CpeoGaYrt6mhUF-B5", 21.6, 22.5),
    ("abn_wide_resnet_cifar100", "abn_cifar_wide_resnet", "CIFAR-100", "1GRDwdtUV2Q2LhDL0NZyzh5b4pj4CEJtv", 18.1, 18.9),
    ("abn_resnext_cifar100", "abn_cifar_resnext", "CIFAR-100", "1CIneC_Y1P_sYEgndC8mR-sAJlS-2eJg5", 17.7, 18.3),
    ("abn_resnet50", "abn_resnet50", "ImageNet", "1SRtzbnE-IpB5talp7PLNK1mzMV3UPQNV", 23.1, 24.1),
    ("abn_resnet101", "abn_resnet101", "ImageNet", "1B5jBHTfskKAgNpsFm9iADn1lskn2UWyk", 21.8, 22.5),
    ("abn_resnet152", "abn_resnet152", "ImageNet", "1ZFq0ubZitsuOwPhrQopQOqVW5-KXflFr", 21.4, 22.2),
]
_GALS: list[_Row] = [  # name, builder, data set, file of Google Drive, errors; the first is a copy of the official ResNet-50
    ("abn_resnet50_mirror", "abn_resnet50", "ImageNet", "12ca2mlKWeft-VNsjsFnhkxNnb2XyzfbZ", 23.1, 24.1),
    ("abn_resnet50_waterbirds100", "abn_resnet50", "Waterbirds-100", "1_UR4YUqwwRUHOZ4OxNjfHQMa5qyk-y2N", None, None),
    ("abn_resnet50_waterbirds95", "abn_resnet50", "Waterbirds-95", "1nknUUhWHLADGlu-pOcGHnaswc00ZUC7y", None, None),
    ("abn_resnet50_food", "abn_resnet50", "Food-101, 5 classes", "1v2dK8liDRI69OdZep3UCBlr_lMk69ErG", 30.7, 30.8),
    ("abn_resnet50_coco", "abn_resnet50", "COCO-ApparentGender", "1PGf7-0UPL8BePOJpBa9WWGZtNrItjrjk", None, None),
]
_EDITOR: list[_Row] = [
    ("abn_resnet18_cub", "abn_resnet18", "CUB-200-2010", "1SGlBahck_F8CkBmfxkCCjBjA_2UT_t1v", None, None),
    ("abn_resnet34_cub", "abn_resnet34", "CUB-200-2010", "1u0HI9FXjoO_WH4JLQvqE_ZEvp_0WD-PH", None, None),
    ("abn_resnet50_cub", "abn_resnet50", "CUB-200-2010", "15it2_wGo41FRFlrTMJR66Ve42P1lJNDr", None, None),
]
# fmt: on


def _weights(
    name: str,
    model: str,
    dataset: str,
    drive: str,
    error: float | None,
    plain_error: float | None,
    *,
    source: str,
    licence: str,
    official: bool = False,
) -> Weights:
    page = f"https://drive.google.com/{'drive/folders' if official else 'file/d'}/{drive}"
    layout = "official" if official else "unverified"
    return Weights(name, model, dataset, error, plain_error, source, licence, page, layout)


_LAB = "machine-perception-robotics-group"
PUBLISHED = Published(
    [
        *(
            _weights(*row, source=f"{_LAB}/attention_branch_network", licence="MIT", official=True)
            for row in _OFFICIAL
        ),
        *(_weights(*row, source="spetryk/GALS", licence="none") for row in _GALS),
        *(_weights(*row, source=f"{_LAB}/AttentionEditorABN", licence="MIT") for row in _EDITOR),
    ]
)
