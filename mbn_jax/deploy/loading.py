"""One way back to a network, whatever form it was kept in."""

import os
from pathlib import Path
from typing import Any

from mbn_jax.deploy.artefact import Artefact, load_artefact
from mbn_jax.deploy.fingerprint import fingerprint
from mbn_jax.deploy.weights import load_pretrained
from mbn_jax.errors import InputError
from mbn_jax.files import check_named
from mbn_jax.models.reid import ReID
from mbn_jax.models.shared import NETWORK, WEIGHTS
from mbn_jax.training.trained_network import load_with_step


def load(
    path: str | Path, checkpoint: str | int | None = None
) -> tuple[ReID | Artefact, dict[str, Any]]:
    """A trained network, for `mbn_jax.embed(model, variables, images, modality)`.

    Args:
      path: the work directory of a run, a folder that `mbn_jax.save_pretrained` wrote,
        or a file that `python -m mbn_jax export` wrote.
      checkpoint: of a work directory only: "last" (the default), "best" (on
        validation), or the step of a kept checkpoint, as a number or in digits.

    Returns:
      The model and its variables, for `model.apply(variables, …, train=False)`, too;
      of a file, the `Artefact`, which is for one modality, and no variables.

    Raises:
      InputError: if the path is "", or there is no network, or no such checkpoint.
    """
    check_named(path)
    path = Path(path)
    # Of os.path, since pathlib raises for a name that is too long.
    is_shared = any(os.path.exists(path / name) for name in (NETWORK, WEIGHTS))
    if checkpoint is not None and (is_shared or os.path.isfile(path)):
        raise InputError(
            f"{path} holds one network and no checkpoint {checkpoint!r}; checkpoints "
            "are for the work directory of a run."
        )
    if os.path.isfile(path):
        return load_artefact(path), {}
    if is_shared:
        return load_pretrained(path)
    if not os.path.isdir(path):
        raise InputError(
            f"There is no network at {path}; give the work directory of a run, a "
            "folder of shared weights, or an exported file."
        )
    step = "last" if checkpoint is None else checkpoint
    return load_with_step(path, step)[:2]


def load_network(
    path: str | Path, checkpoint: str | int | None = None
) -> tuple[ReID, dict[str, Any]]:
    """As `load`, for what needs the network itself: an exported file is refused."""
    model, variables = load(path, checkpoint)
    if isinstance(model, Artefact):
        raise InputError(
            f"{path} is an exported network, whose statistics are folded away; give "
            "the work directory or the shared weights that it was made from."
        )
    return model, variables


def identify(model: Any, variables: Any) -> str:
    """Fingerprint of a network that `load` gave, the same for every form of it."""
    return model.network if isinstance(model, Artefact) else fingerprint(variables)
