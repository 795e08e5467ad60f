"""The data sets by name, as splits that can be read at random.

Behind each name is a TFDS builder in a folder of its own. TFDS is imported only where a
data set is prepared or opened, and TensorFlow never.
"""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mbn_jax.data.source import open_source
from mbn_jax.errors import InputError
from mbn_jax.evaluation.records import Records

# Rendered when first needed.
EMBEDDED_DATASETS = ("synthetic_vireid/nir", "synthetic_vireid/thermal")
# Prepared by `experiments/prepare_data.py` from what their authors give out.
REAL_DATASETS = ("sysu_mm01", *(f"regdb/split{n}" for n in range(1, 11)), "llcm")
DATASETS = (*EMBEDDED_DATASETS, *REAL_DATASETS)

_SPLITS = {
    "synthetic_vireid": ("train", "val", "test"),
    "sysu_mm01": ("train", "val", "test"),
    "regdb": ("train", "test"),
    "llcm": ("train", "test"),
}
_KNOWN = (
    f"{', '.join(EMBEDDED_DATASETS)}, sysu_mm01, regdb/split1 to regdb/split10, llcm"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(Records):
    """One split of a data set: its labels in memory, its images where they are stored.

    Attributes:
        dataset: for example "synthetic_vireid/nir".
        split: for example "train", or the sum "train+val".
        source: ``source[i]["image"]`` is the encoded image of record i, as bytes.
        damaged: what was left out, because it cannot be read: a phrase on each record.
    """

    dataset: str
    split: str
    source: Sequence[Any]
    damaged: tuple[str, ...] = ()

    def encoded_image(self, index: int) -> bytes:
        """Returns the image file of a record."""
        return self.source[int(index)]["image"]

    def select(self, indices: np.ndarray, **changes: Any) -> "Split":
        """Returns some of the records, (n,) integers, in the order asked for."""
        return dataclasses.replace(
            self,
            source=_Chosen(self.source, indices),
            identity=self.identity[indices],
            camera=self.camera[indices],
            modality=self.modality[indices],
            name=self.name[indices],
            **changes,
        )

    def without_damaged(self, damaged: dict[int, str], skip: bool) -> "Split":
        """Leaves out records that cannot be read.

        Args:
            damaged: a phrase for each of them, by index.
            skip: whether to go on without them.

        Raises:
            InputError: some cannot be read, and they are not to be skipped.
        """
        if not damaged:
            return self
        phrases = [damaged[index] for index in sorted(damaged)]
        if not skip:
            several = f", one of {len(phrases)} such" if len(phrases) > 1 else ""
            raise InputError(
                f"{phrases[0]}{several}; prepare the data set again (a new run can"
                " leave damaged records of training and validation out, with"
                " --config.data.skip_damaged; those of the test never)."
            )
        whole = np.delete(np.arange(len(self)), sorted(damaged))
        return self.select(whole, damaged=(*self.damaged, *phrases))


@dataclasses.dataclass(frozen=True)
class _Chosen(Sequence):
    """Some of the records of a source."""

    source: Sequence[Any]
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[int(self.indices[index])]


def training_split(dataset: str) -> str:
    """Names what is trained on, in the literature, too.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.

    Returns:
        "train", or "train+val" for SYSU-MM01.
    """
    return "train+val" if dataset == "sysu_mm01" else "train"


def validation_split(dataset: str) -> str | None:
    """Names a split that is like the test, with other identities.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.

    Returns:
        "val", or None where there is none. The val identities of SYSU-MM01 are seen by
        three of the six cameras only, and so cannot stand for its test.
    """
    return None if dataset in REAL_DATASETS else "val"


def prepare(dataset: str, data_dir: str | os.PathLike) -> None:
    """Makes an embedded data set readable in ``data_dir``, unless it is already.

    It is written under another name and renamed when complete, so that an interrupted
    preparation is never taken for a data set.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.
        data_dir: the directory of all prepared data sets; made if need be.

    Raises:
        InputError: the name is not known, the directory cannot be written to, or the
            data set is one that has to be asked for, and is not prepared.
    """
    _prepared_builder(dataset, data_dir)


def load_split(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike,
    *,
    skip_damaged: bool = False,
) -> Split:
    """Opens a split; an embedded data set is prepared first if it is not there.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.
        split: "train", "val" or "test", where the data set has it, or a sum such as
            "train+val": the records of both, in this order.
        data_dir: the directory of all prepared data sets.
        skip_damaged: leave records out that cannot be read, instead of refusing.

    Returns:
        The split with its labels in memory.

    Raises:
        InputError: a name is not known, the directory cannot be written to, the data
            set is one that has to be asked for, and is not prepared, or a record is
            damaged.
    """
    known = _SPLITS.get(dataset.partition("/")[0])
    parts = split.split("+")
    if known and not (set(parts) <= set(known) and len(set(parts)) == len(parts)):
        raise InputError(
            f"There is no split {split!r} of {dataset}; it has {', '.join(known)}."
        )
    builder = _prepared_builder(dataset, data_dir)

    source, records, unreadable = open_source(builder, split)
    damaged = {
        index: f"Record {index} of {dataset}/{split} in {builder.data_path} is damaged"
        f" ({reason})"
        for index, reason in unreadable.items()
    }
    opened = Split(dataset=dataset, split=split, source=source, **vars(records))
    return opened.without_damaged(damaged, skip_damaged)


def builder_of(dataset: str, data_dir: str | os.PathLike) -> Any:
    """Returns the TFDS builder of a data set, prepared or not.

    Args:
        dataset: one of ``DATASETS``, or a sized variant of one.
        data_dir: the directory of all prepared data sets.

    Raises:
        InputError: the name is not known.
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    family, _, config = dataset.partition("/")
    if dataset in REAL_DATASETS:
        module = importlib.import_module(
            f"mbn_jax.data.{family}.{family}_dataset_builder"
        )
        return module.Builder(config=config or None, data_dir=data_dir)
    if family != "synthetic_vireid":
        raise InputError(
            f"There is no data set {dataset!r}; the known ones are {_KNOWN}."
        )
    from mbn_jax.data.synthetic_vireid.config import config_from_name
    from mbn_jax.data.synthetic_vireid.synthetic_vireid_dataset_builder import Builder

    try:
        builder_config = config_from_name(config)
    except ValueError as error:
        raise InputError(
            f"There is no data set {dataset!r}; the known ones are {_KNOWN} ({error})"
        ) from error
    return Builder(config=builder_config, data_dir=data_dir)


def _prepared_builder(dataset: str, data_dir: str | os.PathLike) -> Any:
    """The TFDS builder of a data set that is there to be read."""
    from mbn_jax.data.prepared import is_prepared, write

    builder = builder_of(dataset, data_dir)
    if dataset in REAL_DATASETS and not is_prepared(builder):
        raise InputError(
            f"The data set {dataset} is not prepared in {builder.data_path}: ask its"
            " authors for it as docs/datasets.md says, and run `python"
            f" experiments/prepare_data.py --dataset={dataset} --manual_dir=DIR"
            f" --data_dir={data_dir}`, where DIR is the folder that you unpacked; or"
            " say where it is prepared (--config.data.data_dir of train.py, --data_dir"
            " of evaluate.py)."
        )
    if is_prepared(builder):
        return builder
    write(builder)
    # TFDS reads the format of the files when a builder is made: this one, made before
    # there were any, does not know what another process has written meanwhile.
    return builder_of(dataset, data_dir)
