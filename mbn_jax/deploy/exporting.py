"""`python -m mbn_jax export` without its flags: an artefact that was checked."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from mbn_jax.deploy.artefact import (
    Artefact,
    export,
    largest_difference,
    load_artefact,
    save_artefact,
)
from mbn_jax.errors import InputError
from mbn_jax.files import check_file
from mbn_jax.models.reid import ReID

# Of components of unit vectors in float32; folding alone moves them by some 1e-7.
TOLERANCE = 1e-4
BATCH_SIZES = (1, 3, 8)
_UNCHECKED = ".unchecked"


def export_checked(
    model: ReID, variables: Any, modality: int, output: str | Path, *, seed: int = 0
) -> tuple[Artefact, float]:
    """Exports a network, reads the file again, and compares what it gives.

    Args:
      model: as `mbn_jax.load` returns it.
      variables: of it.
      modality: an index into `model.modalities`.
      output: path of the file; there only if the features agree.
      seed: of the random pictures, which come in batches of `BATCH_SIZES`.

    Returns:
      The artefact in the file, and the largest difference between a component of its
      features and the network's.

    Raises:
      InputError: as `export`; the file cannot be written; or a difference is larger
        than `TOLERANCE`.
    """
    check_file(output)
    output = Path(output)
    unchecked = output.with_name(output.name + _UNCHECKED)
    rng = np.random.default_rng(seed)
    exported = export(model, variables, modality)
    try:
        save_artefact(unchecked, exported)
        artefact = load_artefact(unchecked)
        difference = max(
            largest_difference(artefact, model, variables, images)
            for images in _pictures(rng, model.image_size)
        )
        if not difference <= TOLERANCE:  # not a number is refused, too
            raise InputError(
                f"The exported network gives features that differ by {difference:.2g} "
                f"from those of the network, expected at most {TOLERANCE:.0e}; nothing "
                "was written to " + str(output) + "."
            )
        unchecked.replace(output)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); name another place."
        ) from error
    finally:
        # Where it could not be written it cannot be removed, for the same reason.
        with contextlib.suppress(OSError):
            unchecked.unlink()
    return artefact, difference


def _pictures(
    rng: np.random.Generator, image_size: tuple[int, int]
) -> list[np.ndarray]:
    return [
        rng.integers(0, 256, (count, *image_size, 3), dtype=np.uint8)
        for count in BATCH_SIZES
    ]
