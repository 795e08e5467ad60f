"""What is known of every image of a set, without the images."""

import dataclasses

import numpy as np

from mbn_jax import modalities as names

# Values of `Records.role`.
EITHER, QUERY_ONLY, GALLERY_ONLY = 0, 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """Who was seen, by which camera, in which modality, and in which file.

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

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self.identity)
