"""Reading what TFDS has prepared: records at random, and all their labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mbn_jax.data.records import Records


def open_source(builder: Any, split: str) -> tuple[Sequence[Any], Records]:
    """Opens a split of a prepared data set.

    Args:
        builder: the TFDS builder, whose data are there.
        split: name of the split.

    Returns:
        The records by index, whose ``"image"`` is an encoded image, and the labels of
        all of them.
    """
    import tensorflow_datasets as tfds

    source = builder.as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    labels = ("identity", "camera", "modality", "name")
    records = [{name: record[name] for name in labels} for record in source]
    return source, Records(
        identity=np.array([r["identity"] for r in records], np.int32),
        camera=np.array([r["camera"] for r in records], np.int32),
        modality=np.array([r["modality"] for r in records], np.int32),
        name=np.array([_text(r["name"]) for r in records], str),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
