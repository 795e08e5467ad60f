r"""Checks the images and labels of a data set, and converts them for training.

A CSV file lists your own images, with a row for each (docs/own-data.md):

    path,identity,camera,modality,split
    visible/anna/0001.jpg,anna,door,visible,train

  python -m mbn_jax prepare --dataset=mine --manifest=mine.csv --images=photos

This reports everything that is wrong, and writes data/mine if nothing is wrong. Then
mine is a data set like any other: --config.data.dataset=mine.

  python -m mbn_jax prepare --dataset=sysu_mm01 --manual_dir=SYSU-MM01

This converts a data set that you got from its authors: sysu_mm01, regdb (all ten
splits), regdb/split1 to regdb/split10, or llcm (docs/datasets.md).

  python -m mbn_jax prepare --dataset=aligned_pairs/msrs \
      --visible=MSRS/train/vi --infrared=MSRS/train/ir

This makes scene patches of aligned photographs (docs/scene-patches.md). With --check
the command only checks, and exits with 1 if something has to be fixed.
"""

import itertools
from pathlib import Path

from absl import flags

from mbn_jax.commands import shared_flags
from mbn_jax.data.preparation import prepare_data
from mbn_jax.data.sources import all_sources
from mbn_jax.errors import InputError
from mbn_jax.files import check_named

_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "A new name for your own images, or one of those above.",
    required=True,
)
_MANIFEST = flags.DEFINE_string("manifest", None, "CSV file of your own images.")
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "Folder that the paths in --manifest are relative to; by default, the folder of "
    "that file.",
)
_OWNERS: dict[str, list[str]] = {}
for source in all_sources():
    for name in (*source.folders, *source.optional_folders):
        _OWNERS.setdefault(name, []).append(source.name)
_FOLDERS = {
    name: flags.DEFINE_multi_string(name, [], f"Folder of {' or '.join(owners)}.")
    for name, owners in _OWNERS.items()
}
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of prepared data sets.")
_NOTE = "Only with --manifest."
_SIXTEEN_BITS, _MAX_MEGAPIXELS = shared_flags.define_reading(_NOTE, _NOTE)
_CHECK = flags.DEFINE_bool("check", False, "Stop after the checks.")


def main() -> None:
    """Prepares a data set."""
    folders = {name: flag.value for name, flag in _FOLDERS.items() if flag.value}
    for folder in itertools.chain(*folders.values()):
        check_named(folder)
    if _MANIFEST.value is not None and folders:
        raise InputError(
            f"--{next(iter(folders))} does not go with --manifest; leave one of"
            " the two out."
        )
    for flag in (_IMAGES, _SIXTEEN_BITS, _MAX_MEGAPIXELS):
        if _MANIFEST.value is None and flag.present:
            raise InputError(
                f"--{flag.name} goes only with --manifest; give --manifest=FILE.csv."
            )
    prepare_data(
        _DATASET.value,
        _DATA_DIR.value,
        folders={
            name: [Path(folder).expanduser() for folder in given]
            for name, given in folders.items()
        },
        manifest=_MANIFEST.value,
        images=_IMAGES.value,
        sixteen_bits=_SIXTEEN_BITS.value,
        max_megapixels=_MAX_MEGAPIXELS.value,
        check_only=_CHECK.value,
    )
