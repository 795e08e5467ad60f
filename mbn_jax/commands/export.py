r"""Writes a trained network to a file that needs only JAX, or as shared weights.

  python -m mbn_jax export --workdir=runs/quick --modality=infrared
  python -m mbn_jax export --workdir=runs/quick --modality=visible --output=visible.zip

This writes a network for images of one modality in float32, as a StableHLO program that
needs only JAX and flatbuffers, on a CPU or a CUDA GPU; its normalizations are folded.
The file is read again, and removed if its features of random images differ from the
network's. --modality is the name of one of the network's modalities.

  python -m mbn_jax export --workdir=runs/quick --format=weights

This writes runs/quick/weights, a folder with model.safetensors and model.json for all
modalities, which can be read without the run. docs/exporting.md says how to use both.
"""

from pathlib import Path

import jax
from absl import flags

import mbn_jax
from mbn_jax.commands import shared_flags
from mbn_jax.deploy.export import BATCH_SIZES, export_checked
from mbn_jax.deploy.load import load_network
from mbn_jax.errors import InputError
from mbn_jax.files import check_file
from mbn_jax.modalities import index
from mbn_jax.models.weights import check_folder

_WORKDIR, _CHECKPOINT = shared_flags.define_network()
_FORMATS = ["stablehlo", "weights"]
_FORMAT = flags.DEFINE_enum("format", "stablehlo", _FORMATS, "What to write.")
_MODALITY = flags.DEFINE_string(
    "modality", None, "Modality of the images that the exported model will get."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File, or folder of weights; by default in --workdir."
)


def main() -> None:
    """Exports, and prints what was written."""
    # The features are compared in full float32. The program for a GPU is lowered
    # without one.
    jax.config.update("jax_platforms", "cpu")
    name = _MODALITY.value
    if (name is None) == (_FORMAT.value == "stablehlo"):
        raise InputError(
            "An exported model is for one modality and weights are for all: give "
            "--modality to --format=stablehlo, and not to --format=weights."
        )
    if _OUTPUT.value is not None:  # checked before any work
        (check_folder if name is None else check_file)(_OUTPUT.value)
    model, variables = load_network(_WORKDIR.value, _CHECKPOINT.value)
    output = _OUTPUT.value
    if output is None:
        # The name of a modality may be "cam/1".
        file = "weights" if name is None else f"{name}.zip".replace("/", "%2F")
        output = str(Path(_WORKDIR.value) / file)
    if name is None:
        mbn_jax.save_pretrained(output, model, variables)
        print(f"{output}: model.safetensors and model.json")
        return
    modality = index(name, model.modalities)
    exported, difference = export_checked(model, variables, modality, output)
    sizes = " × ".join(map(str, exported.image_size))
    platforms = " and ".join(exported.exported.platforms)
    print(f"{output}: for {name} images of {sizes} on {platforms}")
    print(
        f"largest difference from the network on {sum(BATCH_SIZES)} random images, "
        f"in batches of {', '.join(map(str, BATCH_SIZES))}: {difference:.1e}"
    )
