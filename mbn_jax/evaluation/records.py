"""What is known of every image of a set, without the images."""

import dataclasses
from numbers import Integral

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mbn_jax import modalities as names
from mbn_jax.errors import InputError

# Values of `Records.role`.
EITHER, QUERY_ONLY, GALLERY_ONLY = 0, 1, 2
_KINDS = (Integral, str, bytes)  # of labels in an array of objects


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """Who was seen, by which camera, in which modality, and in which file.

    Lists become arrays. What is not one label for each image, or mixes numbers and
    texts, is an `InputError`, and so are modalities and roles that are not integers.

    Attributes:
        identity: the data set's own numbers, (N,) int32.
        camera: the data set's own numbers, (N,) int32.
        modality: index into ``modalities``, (N,) int32.
        name: path in the data set's tree, (N,) str.
        modalities: the names of the modalities, by index.
        role: whether an image may be query or gallery, (N,) int32: `EITHER`,
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
    """Labels as an array, which are all numbers or all texts.

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
