"""From the folder that the authors of a data set give out to a prepared data set."""

import importlib
import os
import sys
from pathlib import Path

from mbn_jax.data.datasets import EMBEDDED_DATASETS, REAL_DATASETS, builder_of
from mbn_jax.data.image_check import check_images
from mbn_jax.data.prepared import check_room, check_writable, is_prepared, write
from mbn_jax.data.tree import Tree
from mbn_jax.data.tree_report import report
from mbn_jax.errors import InputError


def prepare_data(
    dataset: str,
    manual_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    check_only: bool = False,
) -> None:
    """Checks the folder of a data set, and converts it if nothing is wrong.

    Says on standard error what it finds, and on standard output where the prepared data
    lie.

    Args:
        dataset: one of ``REAL_DATASETS``, or "regdb" for all ten of its splits.
        manual_dir: the folder as its authors give it out.
        data_dir: the directory of all prepared data sets.
        check_only: stop after the checks.

    Raises:
        InputError: the name is not known, something in the folder has to be mended, or
            the data directory cannot be written to.
    """
    names = configurations(dataset)
    data_dir = Path(data_dir).expanduser()
    builders = {name: builder_of(name, data_dir) for name in names}
    if not check_only:
        for name in [name for name in names if is_prepared(builders[name])]:
            print(
                f"{name} is prepared in {builders[name].data_path} already; delete that"
                " directory to do it again."
            )
            del builders[name]
        if not builders:
            return
        check_writable(data_dir)

    tree = check(dataset, manual_dir)
    if check_only:
        return
    # Every configuration is a copy, and the labels need little.
    check_room(data_dir, int(1.02 * tree.num_bytes) * len(builders))
    for builder in builders.values():
        builder.tree = tree
        write(builder)
    for name, builder in builders.items():
        print(f"{name} is prepared in {builder.data_path}.")
    name = next(iter(builders))
    flags = f"--config=experiments/configs/agw_mbn.py:{name}"
    if data_dir != Path("data"):
        flags += f" --config.data.data_dir={data_dir}"
    workdir = f"runs/{name.replace('/split', '_')}"
    print(f"Next: python experiments/train.py --workdir={workdir} {flags}")


def check(dataset: str, manual_dir: str | os.PathLike) -> Tree:
    """Walks the folder of a data set, decodes its images, and says what it finds.

    Args:
        dataset: one of ``REAL_DATASETS``, or "regdb" for all ten of its splits.
        manual_dir: the folder as its authors give it out.

    Returns:
        What was found, without problems.

    Raises:
        InputError: something has to be mended; all of it has been printed.
    """
    names = configurations(dataset)
    family = dataset.partition("/")[0]
    scan = importlib.import_module(f"mbn_jax.data.{family}.tree").scan
    if family == "regdb":
        numbers = [int(name.removeprefix("regdb/split")) for name in names]
        tree = scan(manual_dir, numbers)
    else:
        tree = scan(manual_dir)
    tree = check_images(tree, dataset)
    report(tree)
    if tree.problems:
        raise InputError(
            f"{tree.root} is not a complete copy of {dataset} (problems above:"
            f" {len(tree.problems):,}), and nothing was written; mend it and start"
            " again."
        )
    print(f"No problems in {tree.root}.", file=sys.stderr)
    return tree


def configurations(dataset: str) -> list[str]:
    """The data sets that a name given to `prepare_data` stands for.

    Raises:
        InputError: the name is not known, or needs no preparation.
    """
    names = [
        name for name in REAL_DATASETS if dataset in (name, name.partition("/")[0])
    ]
    if names:
        return names
    if dataset.partition("/")[0] == EMBEDDED_DATASETS[0].partition("/")[0]:
        raise InputError(
            f"{dataset} needs no preparation: it is rendered when first used."
        )
    raise InputError(
        f"There is no data set {dataset!r} to prepare; the known ones are sysu_mm01,"
        " regdb, regdb/split1 to regdb/split10, llcm."
    )
