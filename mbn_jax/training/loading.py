"""The way back from a work directory to a network."""

import shlex
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from mbn_jax.errors import InputError
from mbn_jax.models.reid import ReID
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.config import read_config
from mbn_jax.training.step import make_model
from mbn_jax.training.trained_data import DATASET, modalities_of, sixteen_bits_of


def load_with_step(
    workdir: str | Path, checkpoint: str | int = "last"
) -> tuple[ReID, dict[str, Any], int]:
    """A trained network of a work directory.

    Args:
      workdir: of a run of `experiments/train.py`.
      checkpoint: "last", "best" (on validation), or the step of a kept checkpoint, as a
        number or in digits.

    Returns:
      The model, its variables, and the step after which they were saved.

    Raises:
      InputError: if it is not a work directory, holds no such checkpoint, or names
        other modalities than the network has.
    """
    config = read_config(workdir)
    if not (Path(workdir) / "checkpoints").is_dir():
        raise InputError(
            f"{workdir} holds no checkpoint yet; train it first with "
            f"experiments/train.py --workdir {shlex.quote(str(workdir))}."
        )
    with Checkpoints(workdir, to_write=False) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise InputError(
                f"{workdir} holds no checkpoint yet; train it first with "
                f"experiments/train.py --workdir {shlex.quote(str(workdir))}."
            )
        step = int(checkpoint) if str(checkpoint).isdecimal() else checkpoint
        if checkpoint == "last":
            step = steps[-1]
        elif checkpoint == "best":
            best = checkpoints.best_step()
            if best is None:
                raise InputError(
                    f"{workdir} was trained without validation, so that no step is the "
                    "best; take 'last', or train with config.data.num_val_identities."
                )
            step = best
        if step not in steps:
            raise InputError(
                f"{workdir} holds no checkpoint {checkpoint!r}; it holds 'last', "
                f"'best' and the steps {', '.join(map(str, steps))}."
            )
        variables = checkpoints.restore_variables(step)
    num_identities = variables["params"]["classifier"]["kernel"].shape[1]
    modalities = modalities_of(workdir)
    _check_statistics(workdir, modalities, variables)
    model = make_model(config, num_identities, modalities)
    return model.copy(sixteen_bits=sixteen_bits_of(workdir)), variables, int(step)


def _check_statistics(
    workdir: str | Path, modalities: tuple[str, ...], variables: dict[str, Any]
) -> None:
    """Compares the names with the statistics, which have a row for each modality."""
    for path, leaf in flatten_dict(variables["batch_stats"], sep="/").items():
        if leaf.ndim == 2 and len(leaf) != len(modalities):
            is_there = (Path(workdir) / DATASET).exists()
            raise InputError(
                f"The network of {workdir} has statistics of {len(leaf)} modalities "
                f"({path}), but {'by its' if is_there else 'without a'} {DATASET} the "
                f"modalities are {', '.join(modalities)}; restore that file from a "
                "copy of the run."
            )
