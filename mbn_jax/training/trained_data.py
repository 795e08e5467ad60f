"""What a run keeps of the data that it was trained on, in its `dataset.json`."""

import sys
from pathlib import Path
from typing import Any

from mbn_jax.data.catalog import Info
from mbn_jax.data.sixteen_bits import scale_from_text
from mbn_jax.errors import InputError
from mbn_jax.files import read_json
from mbn_jax.modalities import DEFAULT

DATASET = "dataset.json"


def describe(data: Info) -> dict[str, Any]:
    """The content of `dataset.json`."""
    return {
        "dataset": data.dataset,
        "modalities": data.modalities,
        "task": data.task,
        "fingerprint": data.fingerprint,
        "sixteen_bits": data.sixteen_bits.get("scales", {}),
    }


def modalities_of(workdir: str | Path) -> tuple[str, ...]:
    """Returns the names of the modalities that a run was trained on, by index.

    They are in `dataset.json` of the work directory; a run from before there was such a
    file has the default names.

    Raises:
      InputError: the file cannot be read, or names no modalities.
    """
    path = Path(workdir) / DATASET
    if not path.exists():
        return DEFAULT
    names = read_json(path).get("modalities")
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) < len(names)
    ):
        raise InputError(
            f"{path} is damaged: its modalities are {names!r}, expected a list of "
            "distinct names; restore the file from a copy of the run."
        )
    return tuple(names)


def sixteen_bits_of(workdir: str | Path) -> tuple[str, ...]:
    """Returns how images of 16 bits were scaled for a run, for `ReID.sixteen_bits`.

    Returns:
      A text for each modality, as `mbn_jax.data.sixteen_bits` has them; none where all
      are "auto", or where an earlier version wrote the file.

    Raises:
      InputError: the file cannot be read, or holds something else.
    """
    path = Path(workdir) / DATASET
    scales = read_json(path).get("sixteen_bits", {}) if path.exists() else {}
    modalities = modalities_of(workdir)
    try:
        if not isinstance(scales, dict) or not scales.keys() <= set(modalities):
            raise ValueError("they are not those of its modalities")
        texts = [str(scale_from_text(scales.get(m, "auto"))) for m in modalities]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: the scales of images of 16 bits are {scales!r}, "
            "expected one for each of some modalities, as --sixteen_bits has them; "
            "restore the file from a copy of the run."
        ) from error
    return tuple(texts) if scales else ()


def differing_data(workdir: Path, data: Info | None) -> str:
    """Returns a phrase if a run was trained on other data of the same name, or "".

    Args:
      workdir: of the run.
      data: metadata of the present data; None if nothing is known of them.
    """
    path = workdir / DATASET
    if data is None or not path.exists():
        return ""
    before = read_json(path)
    if before.get("fingerprint") == data.fingerprint:
        return ""
    return (
        f"{workdir} was trained on other data of the name {data.dataset} (its "
        f"fingerprint was {str(before.get('fingerprint'))[:12]} and is now "
        f"{data.fingerprint[:12]})"
    )


def check_data(workdir: Path, data: Info | None) -> None:
    """Warns of data that a run was not trained on.

    Args:
      workdir: of the run.
      data: that are there now; None if nothing is known of them.

    Raises:
      InputError: they have other modalities, which the network does not know, or
        `dataset.json` is damaged.
    """
    differing = differing_data(workdir, data)
    if not differing or data is None:
        return
    before = modalities_of(workdir)
    if before != tuple(data.modalities):
        raise InputError(
            f"{differing}, with the modalities {', '.join(before)} and not "
            f"{', '.join(data.modalities)}; give data of the same modalities "
            "(--data_dir)."
        )
    print(f"warning: {differing}.", file=sys.stderr)
