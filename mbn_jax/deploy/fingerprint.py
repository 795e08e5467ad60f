"""Which network this is: equal for all that was made of one, different for others."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from mbn_jax.models.shared import digest


def fingerprint(variables: Mapping[str, Any]) -> str:
    """SHA-256 over the parameters of a network, their names, types and shapes.

    The running statistics are left out: they are what differs between the modalities of
    one network, and adapting one of them leaves its features comparable to the other's.

    Args:
      variables: as `mbn_jax.load` returns them of a network that is not folded.

    Returns:
      64 hexadecimal digits.
    """
    return digest(flatten_dict(variables["params"], sep="/"))
