"""Which network this is: equal for all that was made of one, different for others."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict


def fingerprint(variables: Mapping[str, Any]) -> str:
    """SHA-256 over the parameters of a network, their names, types and shapes.

    The running statistics are left out: they are what differs between the modalities of
    one network, and adapting one of them leaves its features comparable to the other's.

    Args:
      variables: as `mbn_jax.load` returns them of a network that is not folded.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(variables["params"], sep="/").items()):
        array = np.asarray(leaf, order="C")
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
