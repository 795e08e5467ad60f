r"""Adapts a trained network to new cameras by folders of their unlabeled images.

  python -m mbn_jax adapt --workdir=runs/quick --visible=day --infrared=night \
      --output=adapted
  python -m mbn_jax adapt --workdir=runs/quick --infrared=night --output=adapted

This re-estimates the running statistics of each modality from the images of its folder
(mbn_jax.convert.estimate_statistics), and writes the network as shared weights, which
embed and mbn_jax.load take like a work directory. A modality without a folder keeps its
statistics. --visible=DIR is short for --folder=visible=DIR; folders of modalities with
other names are given in the long form:

  python -m mbn_jax adapt --workdir=runs/three --folder=nir=dusk \
      --folder=thermal=night --output=adapted

Whether it helps depends on the cameras: docs/own-pictures.md has measurements.
"""

from absl import flags

import mbn_jax
from mbn_jax.commands import shared_flags
from mbn_jax.data.sixteen_bits import scales_by_modality
from mbn_jax.deploy.adapt import adapt
from mbn_jax.deploy.embed import Reading
from mbn_jax.deploy.load import (
    choose_scales,
    load_network,
    trained_scales,
    with_scales,
)
from mbn_jax.models.weights import check_folder

_WORKDIR, _CHECKPOINT = shared_flags.define_network()
_SHORT = [
    flags.DEFINE_string(name, None, f"Folder of {name} images.")
    for name in ("visible", "infrared")
]
_FOLDERS = shared_flags.define_folders()
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 1024, "Largest number of images of each modality.", 1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images in a batch, of all modalities.", 2
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the order of the images.", 0)
_SIXTEEN_BITS, _MAX_MEGAPIXELS = shared_flags.define_reading("Default: as in training.")


def main() -> None:
    """Adapts, and writes."""
    short = [f"{flag.name}={flag.value}" for flag in _SHORT if flag.value is not None]
    folders = shared_flags.folders_by_name([*short, *_FOLDERS.value])
    scales_by_modality(_SIXTEEN_BITS.value, list(folders))  # refused before any work
    check_folder(_OUTPUT.value)
    model, variables = load_network(_WORKDIR.value, _CHECKPOINT.value)
    scales = choose_scales(trained_scales(model), _SIXTEEN_BITS.value, list(folders))
    adapted = adapt(
        model,
        variables,
        folders,
        num_images=_NUM_IMAGES.value,
        batch_size=_BATCH_SIZE.value,
        seed=_SEED.value,
        readings={
            name: Reading(scale, _MAX_MEGAPIXELS.value)
            for name, scale in scales.items()
        },
    )
    mbn_jax.save_pretrained(_OUTPUT.value, with_scales(model, scales), adapted)
    print(f"{_OUTPUT.value}: the network with the statistics of the new images")
