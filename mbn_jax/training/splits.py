"""What a run trains on, is validated on, and is tested on."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from mbn_jax.data.datasets import (
    Split,
    load_split,
    training_split,
    validation_split,
)
from mbn_jax.data.pipeline import check_images
from mbn_jax.data.validation import carve_validation


@dataclasses.dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
      train: what the batches are drawn from.
      validation: chooses the best step; None to train on everything and take the last.
      test: never looked at before the end. Its identities are in no other.
      selection: says the above of this run, in a sentence that stands in its results.
    """

    train: Split
    validation: Split | None
    test: Split
    selection: str

    def __str__(self) -> str:
        """The sizes, and how the step is chosen."""
        named = {"train": self.train, "val": self.validation, "test": self.test}
        sizes = ", ".join(
            f"{name} {len(split)} images of {_num_identities(split)} identities"
            for name, split in named.items()
            if split is not None
        )
        return f"{self.train.dataset}: {sizes}\n{self.selection}"


def load_splits(config: ConfigDict) -> Splits:
    """Opens the splits of a configuration and decodes every image once.

    Raises:
      InputError: the data set is not known or not prepared, an image cannot be decoded,
        or fewer identities than `data.num_val_identities` can be taken out of training.
    """
    dataset, data_dir = config.data.dataset, config.data.data_dir
    train = load_split(dataset, training_split(dataset), data_dir)
    test = load_split(dataset, "test", data_dir)
    name = validation_split(dataset)
    if config.data.num_val_identities:
        train, validation = carve_validation(
            train, config.data.num_val_identities, config.seed
        )
        people = f"{_num_identities(validation)} identities taken out of training"
    elif name is not None:
        validation = load_split(dataset, name, data_dir)
        people = (
            "the validation split, whose identities are in neither training nor test"
        )
    else:
        validation = None
    if validation is None:
        selection = (
            f"Trained on all {_num_identities(train)} training identities, without "
            "validation: the last step is taken, and no step was chosen by its figures."
        )
    else:
        selection = (
            "Best on validation is the step with the highest mean of the mAP of all "
            f"protocols on {people}; among equals the latest."
        )
    for split in (train, validation, test):
        if split is not None:
            check_images(split, num_threads=config.data.num_threads)
    return Splits(train, validation, test, selection)


def _num_identities(split: Split) -> int:
    return len(np.unique(split.identity))
