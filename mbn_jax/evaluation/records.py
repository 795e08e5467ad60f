"""Records: the labels of images, and checks of them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax import modalities as names
from mbn_jax.errors import InputError

# Values of `Records.role`.
EITHER, QUERY_ONLY, GALLERY_ONLY = 0, 1, 2
# Of query and gallery: identities, then cameras.
LabelArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_KINDS = (Integral, str, bytes)  # of labels in an array of objects


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """Who was seen, by which camera, in which modality, and in which file.

    Lists become arrays. Labels that are not one for each image, or that mix numbers and
    texts, raise an `InputError`, and so do modalities and roles that are not integers.

    Attributes:
        identity: (N,) int32, the data set's own numbers.
        camera: (N,) int32, the data set's own numbers.
        modality: (N,) int32, indices into `modalities`.
        name: (N,) str, paths in the data set's folder.
        modalities: the names of the modalities, by index.
        role: (N,) int32, whether an image may be query or gallery: `EITHER`,
            `QUERY_ONLY` or `GALLERY_ONLY`; None if every image may be either.
    """

    identity: np.ndarray
    camera: np.ndarray
    modality: np.ndarray
    name: np.ndarray
    modalities: tuple[str, ...] = names.DEFAULT
    role: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Makes the labels arrays that fit each other."""
        for field in ("identity", "camera", "modality", "name", "role"):
            values = getattr(self, field)
            if values is None and field == "role":
                continue
            array = label_array(f"{field} labels", values)
            # Set before the others are compared with the number of records.
            object.__setattr__(self, field, array)
            if array.ndim != 1 or len(array) != len(self):
                raise InputError(
                    f"The {field} labels have shape {array.shape}, but there are "
                    f"{self.identity.size} records: give one for each."
                )
            whole = jnp.issubdtype(array.dtype, jnp.integer)
            if field in ("modality", "role") and not whole and len(array):
                raise InputError(
                    f"The {field} labels are {array.dtype}, but integers are expected."
                )

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.identity)


def label_array(what: str, labels: ArrayLike) -> np.ndarray:
    """Returns labels as an array, all of them numbers or all of them texts.

    Raises:
        InputError: they are something else.
    """
    try:
        array = np.asarray(labels)
        # In a list NumPy makes texts of all that stands beside a text.
        of_list = are_text(array) and not isinstance(labels, np.ndarray)
        single = np.asarray(labels, object) if of_list else array
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"The {what} are not a list of labels: {error}.") from error
    if single.dtype == object:
        kinds = {
            next((kind for kind in _KINDS if isinstance(label, kind)), type(label))
            for label in single.flat
        }
        if len(kinds) > 1 or not kinds <= set(_KINDS):
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise InputError(
                f"The {what} are of the types {names}, but all of them are expected to "
                "be numbers, or all of them texts."
            )
    if array.dtype.kind in "Mm":  # NumPy compares dates with no other label
        raise InputError(
            f"The {what} are {array.dtype}, but numbers or texts are expected."
        )
    return array


def are_text(labels: np.ndarray) -> bool:
    """Whether labels, as `label_array` gives them, are texts."""
    of_objects = labels.dtype == object and isinstance(next(labels.flat, 0), str)
    return labels.dtype.kind in "UST" or of_objects


def label_arrays(
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
) -> LabelArrays:
    """Returns the labels (Q,), (G,), (Q,), (G,) as arrays.

    Raises:
        InputError: there is not one identity and one camera for every image, or
            numbers and texts are mixed.
    """
    query = label_array("query identities", query_ids)
    gallery = label_array("gallery identities", gallery_ids)
    cameras = label_array("query cameras", query_cameras)
    of_gallery = label_array("gallery cameras", gallery_cameras)
    for side, ids, seen in (
        ("query", query, cameras),
        ("gallery", gallery, of_gallery),
    ):
        if ids.ndim != 1 or ids.shape != seen.shape:
            raise InputError(
                f"The {side} identities have shape {ids.shape} and its cameras shape "
                f"{seen.shape}: give one of each for every {side} image."
            )
    for what, left, right in (
        ("identities", query, gallery),
        ("cameras", cameras, of_gallery),
    ):
        if left.size and right.size and are_text(left) != are_text(right):
            raise InputError(
                f"The {what} of query and gallery are texts on one side and numbers "
                "on the other: give the same kind of labels for both."
            )
    return query, gallery, cameras, of_gallery


class Labels(NamedTuple):
    """What is known of the paths and labels of a data set's test images.

    Attributes:
        dataset: its name, for sentences.
        path: a pattern with groups named identity, camera and modality, where the path
            says them; the text of a modality group is a key of `modality_of`.
        example: an example of such a path.
        cameras: the numbers of the cameras by the index of their modality.
        modality_of: index of the modality by the text in the path.
    """

    dataset: str
    path: str
    example: str
    cameras: Mapping[int, Sequence[int]]
    modality_of: Mapping[str, int] = MappingProxyType({})


def check_labels(records: Records, labels: Labels | None) -> str | None:
    """Compares the labels of a feature file with each other and with the paths.

    Args:
        records: the records of the file.
        labels: what is known of the data set; None if nothing is.

    Returns:
        A warning if names are not paths of the data set, since then seeded galleries
        may be others and the labels cannot be checked; or None.

    Raises:
        InputError: a modality is missing, a camera cannot have the modality, or a path
            contradicts the labels; says in how many rows.
    """
    names = records.modalities
    sizes = np.bincount(records.modality, minlength=len(names))
    if not sizes.all():
        found = " and ".join(
            f"{n} {name}" for n, name in zip(sizes, names, strict=True)
        )
        numbers = ", ".join(f"{i} for {name}" for i, name in enumerate(names))
        raise InputError(
            f"The file holds {found} images; write the test images of all modalities "
            f"(modality is {numbers})."
        )
    if labels is None:
        return None
    for modality, cameras in labels.cameras.items():
        there = np.unique(records.camera[records.modality == modality])
        wrong = np.setdiff1d(there, cameras)
        if wrong.size:
            raise InputError(
                f"The file has {names[modality]} images of camera {wrong[0]}, but in "
                f"{labels.dataset} the {names[modality]} cameras are "
                f"{', '.join(map(str, cameras))}; write the data set's own numbers, "
                f"and modality {modality} for {names[modality]}."
            )
    return _check_paths(records, labels)


def _check_paths(records: Records, labels: Labels) -> str | None:
    wrong: list[tuple[int, str, int]] = []
    other: list[str] = []
    for row, name in enumerate(records.name.tolist()):
        path = re.search(labels.path, name)
        if path is None:
            other.append(name)
            continue
        for label, text in path.groupdict().items():
            number = labels.modality_of[text] if label == "modality" else int(text)
            if number != getattr(records, label)[row]:
                wrong.append((row, label, number))
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
            f"{len(other)} of {len(records)} names, {other[0]!r} for example, are not "
            f"paths of {labels.dataset} ({labels.example}): seeded galleries, which "
            "are drawn from sorted names, may be different, and the labels cannot be "
            "checked."
        )
    return None
