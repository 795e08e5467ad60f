"""Loads networks, and tells how their images of 16 bits are scaled."""

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
from mbn_jax.models.weights import NETWORK, WEIGHTS, fingerprint, load_pretrained
from mbn_jax.training.trained_network import load_with_step


def load(
    path: str | Path, checkpoint: str | int | None = None
) -> tuple[ReID | ExportedModel, dict[str, Any]]:
    """A trained network, for `mbn_jax.embed(model, variables, images, modality)`.

    Args:
      path: the work directory of a run, a folder that `mbn_jax.save_pretrained` wrote,
        or a file that `python -m mbn_jax export` wrote.
      checkpoint: of a work directory only: "last" (the default), "best" (on
        validation), or the step of a kept checkpoint, as a number or in digits.

    Returns:
      The model and its variables, for `model.apply(variables, …, train=False)`, too;
      of a file, the `ExportedModel`, which is for one modality, and no variables.

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
        return load_exported(path), {}
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
    if isinstance(model, ExportedModel):
        raise InputError(
            f"{path} is an exported network, whose statistics are folded away; give "
            "the work directory or the shared weights that it was made from."
        )
    return model, variables


def identify(model: Any, variables: Any) -> str:
    """Fingerprint of a network that `load` gave, the same for every form of it."""
    return model.network if isinstance(model, ExportedModel) else fingerprint(variables)


def trained_scales(model: ReID | ExportedModel) -> dict[str, Scale]:
    """The scales that a network was trained with, by modality; none if not known.

    Args:
      model: as `mbn_jax.load` returns it.

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
    """The scale of each modality: that of a flag, or else that of the training.

    Prints a line that names the scales of the training that are used, if any.

    Args:
      trained: as `trained_scales` gives them.
      values: of the repeated flag `--sixteen_bits`.
      modalities: names of those whose images are read.

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
    """The network with other scales of some modalities, for statistics made by them."""
    texts = as_texts(trained_scales(model) | dict(scales))
    if set(texts.values()) == {str(AUTO)}:
        return model.copy(sixteen_bits=())
    return model.copy(sixteen_bits=tuple(texts[name] for name in model.modalities))
