"""Loads a trained network, and tells how its images of 16 bits are scaled."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbn_jax.data.sixteen_bits import (
    AUTO,
    FLAG,
    Scale,
    as_texts,
    scale_from_text,
    scales_by_modality,
)
from mbn_jax.deploy.exported import ExportedModel, load_exported
from mbn_jax.errors import InputError
from mbn_jax.files import check_named
from mbn_jax.models.reid import ReID
from mbn_jax.models.weights import NETWORK, WEIGHTS, load_pretrained
from mbn_jax.training.trained_network import load_with_step


def load(
    path: str | Path, checkpoint: str | int | None = None
) -> tuple[ReID | ExportedModel, dict[str, Any]]:
    """Loads a trained network, for `mbn_jax.embed` or `model.apply`.

    Args:
      path: the work directory of a run, a folder that `mbn_jax.save_pretrained` wrote,
        or a file that `python -m mbn_jax export` wrote.
      checkpoint: of a work directory only: "last" (the default), "best" (on
        validation), or the step of a kept checkpoint, as a number or in digits.

    Returns:
      The model and its variables. For a file these are an `ExportedModel`, which is for
      images of one modality, and no variables.

    Raises:
      InputError: if the path is "", or there is no network, or no such checkpoint.
    """
    check_named(path)
    path = Path(path)
    # os.path does not raise for a name that is too long, as pathlib does.
    is_file = os.path.isfile(path)
    is_shared = any(os.path.exists(path / name) for name in (NETWORK, WEIGHTS))
    if checkpoint is not None and (is_shared or is_file):
        raise InputError(
            f"{path} holds one network and no checkpoint {checkpoint!r}; checkpoints "
            "are for the work directory of a run."
        )
    if is_file:
        return load_exported(path), {}
    if is_shared:
        return load_pretrained(path)
    if not os.path.isdir(path):
        raise InputError(
            f"There is no network at {path}; give the work directory of a run, a "
            "folder of shared weights, or an exported file."
        )
    return load_with_step(path, "last" if checkpoint is None else checkpoint)[:2]


def load_network(
    path: str | Path, checkpoint: str | int | None = None
) -> tuple[ReID, dict[str, Any]]:
    """Loads as `load` does, but refuses exported models, which cannot be changed."""
    model, variables = load(path, checkpoint)
    if isinstance(model, ExportedModel):
        raise InputError(
            f"{path} is an exported network, whose statistics are folded away; give "
            "the work directory or the shared weights that it was made from."
        )
    return model, variables


def trained_scales(model: ReID | ExportedModel) -> dict[str, Scale]:
    """Returns the scale of each modality that a network was trained with.

    Raises:
      InputError: the file that the network was read from holds something else.
    """
    texts = model.sixteen_bits or ("auto",) * len(model.modalities)
    try:
        scales = map(scale_from_text, texts)
        return dict(zip(model.modalities, scales, strict=True))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The network is damaged: its scales of images of 16 bits are {texts!r}, "
            f"expected one for each of {', '.join(model.modalities)}; copy it again."
        ) from error


def choose_scales(
    trained: Mapping[str, Scale], values: Sequence[str], modalities: Sequence[str]
) -> dict[str, Scale]:
    """Chooses the scale of each modality: that of the flag, or else of the training.

    It prints which scales of the training are used. The values are those of the
    repeated flag `--sixteen_bits`, and the modalities those whose images are read.

    Raises:
      InputError: as `mbn_jax.data.sixteen_bits.scales_by_modality`.
    """
    chosen = scales_by_modality(values, modalities, trained)
    by_flag = scales_by_modality(values, modalities)
    used = {name: scale for name, scale in chosen.items() if name not in by_flag}
    if used:
        listed = " ".join(f"{name}={text}" for name, text in as_texts(used).items())
        print(
            f"Images of 16 bits are scaled as in training: {listed} (--{FLAG} chooses "
            "another scale).",
            file=sys.stderr,
        )
    return {name: chosen.get(name, AUTO) for name in modalities}


def with_scales(model: ReID, scales: Mapping[str, Scale]) -> ReID:
    """Returns the network with other scales for some modalities."""
    texts = as_texts(trained_scales(model) | dict(scales))
    ordered = tuple(texts[name] for name in model.modalities)
    return model.copy(sixteen_bits=() if set(ordered) == {str(AUTO)} else ordered)
