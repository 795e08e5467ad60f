r"""Adapts a trained network to new cameras by folders of their unlabeled images.

  python -m mbn_jax adapt --workdir=runs/quick --visible=day --infrared=night \
      --output=adapted
  python -m mbn_jax adapt --workdir=runs/quick --infrared=night --output=adapted

This re-estimates the running statistics of each modality from the images of its folder
(mbn_jax.convert.estimate_statistics), and writes the network as shared weights, which
embed and mbn_jax.load take like a work directory. A modality without a folder keeps its
statistics. --visible=DIR is short for --folder=visible=DIR; modalities of other names
are given in the long form:

  python -m mbn_jax adapt --workdir=runs/three --folder=nir=dusk \
      --folder=thermal=night --output=adapted

Whether it helps depends on the cameras: docs/own-pictures.md measures it.
"""

from absl import flags, logging

import mbn_jax
from mbn_jax.data.images import MAX_HELP, MAX_MEGAPIXELS
from mbn_jax.data.sixteen_bits import FLAG, HELP, scales_by_modality
from mbn_jax.deploy.adaptation import adapt
from mbn_jax.deploy.folder import Reading, folders_by_name
from mbn_jax.deploy.loading import (
    choose_scales,
    load_network,
    trained_scales,
    with_scales,
)
from mbn_jax.models.weights import check_folder

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory, or a folder of shared weights.", required=True
)
flags.DEFINE_alias("model", "workdir")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Of a work directory: last (the default), best, or a step."
)
_VISIBLE = flags.DEFINE_string("visible", None, "Folder of visible images.")
_INFRARED = flags.DEFINE_string("infrared", None, "Folder of infrared images.")
_FOLDERS = flags.DEFINE_multi_string(
    "folder",
    [],
    "NAME=DIR: a modality and the folder of its images; one flag for each.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 1024, "Images of each modality at most.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images of all modalities in a batch.", lower_bound=2
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the order of the images.", lower_bound=0
)
_SIXTEEN_BITS = flags.DEFINE_multi_string(
    FLAG, [], f"{HELP} By default as in training."
)
_MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels", MAX_MEGAPIXELS, MAX_HELP, lower_bound=0
)


def main() -> None:
    """Adapts, and writes."""
    logging.set_verbosity(logging.WARNING)
    short = [
        f"{flag.name}={flag.value}"
        for flag in (_VISIBLE, _INFRARED)
        if flag.value is not None
    ]
    folders = folders_by_name([*short, *_FOLDERS.value])
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
