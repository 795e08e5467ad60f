"""How samples of two modalities may be spread over eight devices of four samples."""

import numpy as np

from .layers import random_input

SHAPE = (32, 3, 2, 4)


def _shards(*counts):
    """Modalities, given how many of each device's four samples are visible."""
    return np.concatenate([np.arange(4) >= n for n in counts]).astype(np.int32)


def _mask(*counts):
    """A mask, given how many of each device's four samples count."""
    return np.concatenate([np.arange(4) < n for n in counts])


SPREADS = {
    "balanced": (_shards(2, 2, 2, 2, 2, 2, 2, 2), None),
    "unequal": (_shards(1, 3, 1, 1, 2, 1, 1, 3), None),
    "empty of a modality": (_shards(4, 4, 0, 0, 0, 1, 0, 0), None),
    "a modality on one device": (_shards(0, 0, 0, 0, 0, 1, 0, 0), None),
    "absent modality": (_shards(0, 0, 0, 0, 0, 0, 0, 0), None),
    "unequally masked": (
        _shards(1, 3, 1, 1, 2, 1, 1, 3),
        _mask(1, 4, 2, 2, 3, 4, 4, 3),
    ),
    "empty by the mask": (
        _shards(1, 3, 2, 1, 2, 1, 1, 3),
        _mask(0, 4, 0, 0, 3, 4, 0, 3),
    ),
}


def batch(spread):
    """(x, modality, weights of the loss, mask), modalities of different moments."""
    modality, mask = SPREADS[spread]
    x = random_input(SHAPE) * (1 + modality[:, None, None, None])
    # Every device has its own mean: an average of averages is another number.
    x = x + np.repeat(np.arange(8), 4)[:, None, None, None]
    return x.astype(np.float32), modality, random_input(SHAPE, seed=9), mask
