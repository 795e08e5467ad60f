"""How images of 16 bits are scaled for a network: as in its training, or as is said."""

import sys
from collections.abc import Mapping, Sequence

from mbn_jax.data.sixteen_bits import (
    AUTO,
    FLAG,
    Scale,
    as_texts,
    scale_from_text,
    scales_by_modality,
)
from mbn_jax.deploy.artefact import Artefact
from mbn_jax.errors import InputError
from mbn_jax.models.reid import ReID


def trained_scales(model: ReID | Artefact) -> dict[str, Scale]:
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
