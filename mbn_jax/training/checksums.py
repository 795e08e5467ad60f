"""Checksums of the arrays of a checkpoint, since what reads them back has none."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of every array of a tree, by its path.

    It is over the type, the shape and the values of the whole array, on however many
    devices it is, and finds every error of up to 32 bits in a row.

    Args:
      tree: of arrays, each of which this process can read as a whole: all its pieces,
        or a copy.

    Returns:
      Numbers by names like `params/classifier/kernel`; a field of a dataclass has the
      name of the same key of a dictionary.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _checksum(leaf: Any) -> int:
    # Asked for by name: the training loop forbids all other transfers.
    array = np.ascontiguousarray(jax.device_get(leaf))
    header = f"{array.dtype} {np.shape(leaf)}".encode()
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(header))


def check_arrays(tree: Any, kept: Mapping[str, int]) -> None:
    """Compares the arrays of a tree with checksums from when they were saved.

    Args:
      tree: arrays as `checksums` takes them, all that were saved or a part of them.
      kept: what `checksums` returned then.

    Raises:
      ValueError: names the arrays that differ, or have no checksum.
    """
    found = checksums(tree)
    different = [name for name in found if kept.get(name) != found[name]]
    if different:
        shown = ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
        raise ValueError(
            f"{len(different)} of {len(found)} arrays differ from what was saved, by "
            f"their checksums: {shown}"
        )
