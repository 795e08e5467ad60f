"""Training identities set aside, so that a model can be chosen without the test set."""

import numpy as np

from mbn_jax.data.datasets import Split
from mbn_jax.errors import InputError


def carve_validation(
    split: Split, num_identities: int, seed: int
) -> tuple[Split, Split]:
    """Takes identities out of a training split.

    They are drawn among the identities that every camera of the split has seen, so that
    the protocol of the test can be asked of them.

    Args:
        split: of training.
        num_identities: to take out, at least 1.
        seed: of the draw; nothing else enters into it.

    Returns:
        What is left for training, and the validation split, named "val". Both keep the
        order of the records.

    Raises:
        InputError: too few identities were seen by every camera, or none would be left.
    """
    cameras = np.unique(split.camera)
    views = np.unique(np.stack([split.identity, split.camera], axis=1), axis=0)
    identities, seen_by = np.unique(views[:, 0], return_counts=True)
    eligible = identities[seen_by == len(cameras)]
    most = min(len(eligible), len(identities) - 1)
    if num_identities > most:
        raise InputError(
            f"config.data.num_val_identities is {num_identities}, but of the "
            f"{len(identities)} identities of {split.dataset}/{split.split} "
            f"{len(eligible)} were seen by all of its {len(cameras)} cameras, and one "
            f"must be left for training; give {most} or less, or 0 to train on all."
        )
    chosen = np.random.default_rng(seed).choice(eligible, num_identities, replace=False)
    in_validation = np.isin(split.identity, chosen)
    return (
        split.select(np.flatnonzero(~in_validation)),
        split.select(np.flatnonzero(in_validation), split="val", damaged=()),
    )
