"""Whether the labels beside features can be those of a data set."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records


class _DataSet(NamedTuple):
    """What is known of every test image.

    Attributes:
        path: what its path says of it.
        example: such a path.
        cameras: by modality, the numbers there are.
    """

    path: str
    example: str
    cameras: Mapping[int, tuple[int, ...]]


_NINE = tuple(range(1, 10))
_DATA_SETS = {
    "sysu_mm01": _DataSet(
        r"(?:^|/)cam(?P<camera>[1-6])/(?P<identity>\d{4})/\d+\.jpg$",
        "cam3/0006/0001.jpg",
        {0: (1, 2, 4, 5), 1: (3, 6)},
    ),
    "regdb": _DataSet(
        r"(?:^|/)(?P<modality>Visible|Thermal)/(?P<identity>\d+)/[^/]+\.bmp$",
        "Thermal/285/male_back_t_05528_285.bmp",
        {0: (1,), 1: (2,)},
    ),
    "llcm": _DataSet(
        r"(?:^|/)test_(?P<modality>vis|nir)/cam(?P<camera>[1-9])/(?P<identity>\d{4})"
        r"/[^/]+\.jpg$",
        "test_nir/cam1/0003/….jpg",
        {0: _NINE, 1: _NINE},
    ),
}
_INFRARED = ("Thermal", "nir")
_MODALITIES = ("visible", "infrared")


def check_labels(family: str, records: Records) -> str | None:
    """Compares labels with each other and with the paths beside them.

    Args:
        family: of data sets, for example "sysu_mm01".
        records: of a feature file.

    Returns:
        A sentence to warn by where names are no paths of the data set, since then
        seeded galleries may be others and the labels cannot be checked; or None.

    Raises:
        InputError: a modality is missing, a camera cannot have the modality, or a path
            contradicts the labels; says in how many rows.
    """
    sizes = np.bincount(records.modality, minlength=2)
    if not sizes.all():
        raise InputError(
            f"The file holds {sizes[0]} visible and {sizes[1]} infrared images; write "
            "the test images of both modalities (modality is 0 for visible, 1 for "
            "infrared)."
        )
    known = _DATA_SETS.get(family)
    if known is None:
        return None
    for modality, cameras in known.cameras.items():
        there = np.unique(records.camera[records.modality == modality])
        wrong = np.setdiff1d(there, cameras)
        if wrong.size:
            raise InputError(
                f"The file has {_MODALITIES[modality]} images of camera {wrong[0]}, "
                f"but in {family} the {_MODALITIES[modality]} cameras are "
                f"{', '.join(map(str, cameras))}; write the data set's own numbers, "
                "and modality 0 for visible, 1 for infrared."
            )
    return _check_paths(family, known, records)


def _check_paths(family: str, known: _DataSet, records: Records) -> str | None:
    wrong: list[tuple[int, str, int]] = []
    other: list[str] = []
    for row, name in enumerate(records.name.tolist()):
        path = re.search(known.path, name)
        if path is None:
            other.append(name)
            continue
        said = path.groupdict()
        if "modality" in said:
            said["modality"] = str(int(said["modality"] in _INFRARED))
        wrong += [
            (row, label, int(number))
            for label, number in said.items()
            if int(number) != getattr(records, label)[row]
        ]
    if wrong:
        row, label, number = wrong[0]
        rows = len({row for row, _, _ in wrong})
        raise InputError(
            f"In {rows} of {len(records)} rows the labels contradict the paths; the "
            f"first: {label} of {records.name[row]} is {getattr(records, label)[row]}, "
            f"but its path says {number}; write the data set's own numbers, not class "
            "labels, in the order of the names."
        )
    if other:
        return (
            f"{len(other)} of {len(records)} names, {other[0]!r} for example, are no "
            f"paths of {family} ({known.example}): seeded galleries, which are drawn "
            "from sorted names, may be others, and the labels cannot be checked."
        )
    return None
