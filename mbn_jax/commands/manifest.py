r"""Writes the manifest of your own images from folders, one for each modality.

  python -m mbn_jax manifest --folder=visible=photos/visible \
      --folder=infrared=photos/infrared --output=photos/manifest.csv

Each of these folders holds a folder for every identity, with its images or with a
folder of images for each camera: photos/visible/anna/0001.jpg,
photos/visible/anna/door/0002.png. A third of the identities is drawn for the test set
from those that have images in every modality; the others are for training. The result
is a CSV table that you can check and edit:

    path,identity,camera,modality,split
    visible/anna/0001.jpg,anna,visible,visible,train

Modalities can have any names, and the shares can be chosen:

  python -m mbn_jax manifest --folder=rgb=day --folder=nir=dusk --folder=thermal=night
  python -m mbn_jax manifest --folder=rgb=day --folder=nir=dusk --test=0.5 --val=0.1

Next: python -m mbn_jax prepare --dataset=mine --manifest=photos/manifest.csv
"""

import os
import shlex
from collections import Counter
from pathlib import Path

from absl import flags

from mbn_jax.commands import shared_flags
from mbn_jax.data.findings import some
from mbn_jax.data.manifest import find_rows, write_manifest
from mbn_jax.errors import InputError
from mbn_jax.files import check_file

_FOLDERS = shared_flags.define_folders()
_OUTPUT = flags.DEFINE_string("output", "manifest.csv", "File to write.")
_TEST = flags.DEFINE_float("test", 1 / 3, "Share of the identities for the test.", 0, 1)
_VAL = flags.DEFINE_float("val", 0, "Share of the identities for validation.", 0, 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the draw of identities.", 0)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")


def main() -> None:
    """Writes the manifest."""
    given = shared_flags.folders_by_name(_FOLDERS.value)
    folders = {name: Path(path).expanduser().absolute() for name, path in given.items()}
    output = Path(_OUTPUT.value).expanduser().absolute()
    if output.exists() and not _OVERWRITE.value:
        raise InputError(
            f"{output} exists already; give another --output, or --overwrite."
        )
    check_file(output)
    root = output.parent
    if not all(folder.is_relative_to(root) for folder in folders.values()):
        root = Path(os.path.commonpath(folders.values()))
    rows = find_rows(folders, root, test=_TEST.value, val=_VAL.value, seed=_SEED.value)
    write_manifest(output, rows)
    identities = Counter(split for _, split in {(r.identity, r.split) for r in rows})
    sizes = ", ".join(f"{count} in {split}" for split, count in identities.items())
    print(f"{_OUTPUT.value}: {len(rows):,} images; identities: {sizes}")
    seen: dict[str, set[str]] = {}
    for row in rows:
        seen.setdefault(row.identity, set()).add(row.modality)
    lacking = sorted(i for i, found in seen.items() if len(found) < len(folders))
    if lacking:
        print(
            f"{len(lacking)} identities lack a modality: {some(lacking)} (is a folder"
            " misspelled?)"
        )
    flags_of_next = [f"--manifest={_OUTPUT.value}"]
    if root != output.parent:
        flags_of_next.append(f"--images={root}")
    print(f"Next: python -m mbn_jax prepare --dataset=mine {shlex.join(flags_of_next)}")
