"""Prepares a data set: everything is checked first, and then everything is written."""

import dataclasses
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbn_jax.data.catalog import is_prepared, path_of
from mbn_jax.data.checks import Checked, check_images, check_rows
from mbn_jax.data.images import MAX_MEGAPIXELS
from mbn_jax.data.manifest import Manifest, read_manifest
from mbn_jax.data.sixteen_bits import FLAG, scales_by_modality
from mbn_jax.data.sources import Folders, Scan, known_datasets, source_of
from mbn_jax.data.writer import check_same, write
from mbn_jax.errors import InputError
from mbn_jax.files import check_writable

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"


def prepare_data(
    dataset: str,
    data_dir: str | os.PathLike,
    *,
    folders: Folders | None = None,
    manifest: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    sixteen_bits: Sequence[str] = (),
    max_megapixels: float = MAX_MEGAPIXELS,
    check_only: bool = False,
) -> None:
    """Checks the images and labels of a data set, and converts it if nothing is wrong.

    Prints on standard error what it finds, and on standard output where the prepared
    data are.

    Args:
        dataset: a new name for the user's own data, the name of a source's data set, or
            the part of it before the slash for all data sets of that source.
        data_dir: the directory of all prepared data sets.
        folders: those of a source, by their flags; not with ``manifest``.
        manifest: path of the CSV file of the user's own data.
        images: folder that the paths in it are relative to; None for its own folder.
        sixteen_bits: how its images of 16 bits are scaled, as for
            `mbn_jax.data.sixteen_bits.scales_by_modality`.
        max_megapixels: millions of pixels that an image may have.
        check_only: stop after the checks.

    Raises:
        InputError: the name is not known, something in the data has to be fixed, or the
            data directory cannot be written to.
    """
    names = _names(dataset, manifest)
    # A person's own data may have changed since: they are compared below.
    if not check_only and manifest is None:
        for name in [name for name in names if is_prepared(name, data_dir)]:
            print(
                f"{name} is prepared in {path_of(name, data_dir)} already; delete that"
                " directory to do it again."
            )
            names.remove(name)
        if not names:
            return
    if not check_only:
        check_writable(path_of(names[0], data_dir))
    scan = (
        _scan_source(dataset, names, folders or {})
        if manifest is None
        else _scan_manifest(dataset, manifest, images, sixteen_bits)
    )
    checked = _check_images(dataset, scan, manifest, max_megapixels)
    _report(dataset, scan, manifest)
    if check_only:
        return
    if manifest is not None and is_prepared(dataset, data_dir):
        check_same(dataset, scan.manifests[dataset], data_dir, checked)
        print(f"{dataset} is prepared in {path_of(dataset, data_dir)} already.")
        return
    # Every data set copies the images; the labels need little room.
    _check_room(data_dir, int(1.02 * checked.num_bytes) * len(names))
    for name in names:
        write(name, scan.manifests[name], data_dir, checked=checked)
    for name in names:
        print(f"{name} is prepared in {path_of(name, data_dir)}.")
    print(f"Next: {_next_command(names[0], data_dir)}")


def _names(dataset: str, manifest: object) -> list[str]:
    """Returns the data sets that a name stands for."""
    source = source_of(dataset)
    if manifest is not None:
        if source or not re.fullmatch(_NAME, dataset):
            taken = "is taken by this project" if source else "cannot be a name"
            raise InputError(
                f"{dataset!r} {taken}; give your data set a name of its own that"
                " consists of at most 100 letters, digits, _, . and -."
            )
        return [dataset]
    if source and source.make:
        raise InputError(
            f"{dataset} needs no preparation: it is rendered when first used."
        )
    if source and dataset == source.name:
        return list(source.datasets)
    if source and source.knows(dataset):
        return [dataset]
    raise InputError(
        f"There is no data set {dataset!r} to prepare; the known ones are"
        f" {known_datasets()}, and images of your own need --manifest=FILE.csv."
    )


def _scan_source(dataset: str, names: Sequence[str], folders: Folders) -> Scan:
    source = source_of(dataset)
    assert source is not None
    assert source.scan is not None
    missing = [f"--{flag}=DIR" for flag in source.folders if not folders.get(flag)]
    if missing:
        raise InputError(
            f"{dataset} is made from folders; give {' and '.join(missing)}, too."
        )
    known = (*source.folders, *source.optional_folders)
    for flag in folders:
        if flag not in known:
            raise InputError(
                f"--{flag} does not go with --dataset={dataset}, which takes"
                f" {', '.join(f'--{name}' for name in known)}; leave it out."
            )
    return source.scan(folders, names)


def _scan_manifest(
    dataset: str,
    path: str | os.PathLike,
    images: str | os.PathLike | None,
    sixteen_bits: Sequence[str],
) -> Scan:
    manifest, findings = read_manifest(path, images)
    scales = scales_by_modality(sixteen_bits, manifest.modalities)
    manifest = dataclasses.replace(manifest, scales=scales)
    if manifest.rows:
        check_rows(manifest, findings)
    elif not findings.problems:
        findings.problem(
            "no rows", f"The manifest {path} has no rows; add a row for each image."
        )
    return Scan(manifest.root, {dataset: manifest}, findings)


def _check_images(
    dataset: str, scan: Scan, file: object, max_megapixels: float
) -> Checked:
    """Decodes all images that are files; ``file`` is the path of a manifest or None."""
    manifests = [m for m in scan.manifests.values() if m.make is None]
    paths = dict.fromkeys(row.path for m in manifests for row in m.rows)
    if not paths and not scan.left_out:
        return Checked()
    options: dict[str, Any] = {}
    if file is not None:
        (own,) = manifests
        lines = dict(zip(paths, own.lines, strict=True))
        options = {
            "place": lambda path: f"{file}, line {lines[path]}: ",
            "remedy": "replace it or remove its row from the manifest",
            "too_large": "scale it down, remove its row from the manifest, or raise"
            " --max_megapixels",
            "scales": {
                row.path: own.scales[row.modality]
                for row in own.rows
                if row.modality in own.scales
            },
        }
    checked = check_images(
        scan.root,
        list(paths),
        scan.findings,
        title=dataset,
        left_out=scan.left_out,
        max_megapixels=max_megapixels,
        **options,
    )
    if any(m.scales for m in manifests) and not checked.num_sixteen_bits:
        scan.findings.warning(
            "scales without images",
            f"--{FLAG} changes nothing, since no image has 16 bits.",
        )
    return checked


def _report(dataset: str, scan: Scan, file: object) -> None:
    """Prints sizes and findings, and raises `InputError` if there are problems."""
    for name, manifest in scan.manifests.items():
        _print_sizes(f"{name}/" if len(scan.manifests) > 1 else "", manifest)
    scan.findings.report()
    what: object = scan.root
    whole = f"a complete copy of {dataset}"
    if file is not None:
        what, whole = file, "a data set"
    if scan.findings.problems:
        raise InputError(
            f"{what} is not {whole} (problems above: {len(scan.findings.problems):,}),"
            " and nothing was written; fix them and start again."
        )
    print(f"No problems in {what}.", file=sys.stderr)


def _print_sizes(prefix: str, manifest: Manifest) -> None:
    for split, of_modality in manifest.counts().items():
        identities = len({row.identity for row in manifest.of(split)})
        parts = [f"{count:,} {modality}" for modality, count in of_modality.items()]
        listed = [", ".join(parts[:-1]), parts[-1]]
        print(
            f"{prefix}{split}: {sum(of_modality.values()):,} images of"
            f" {identities:,} identities, {' and '.join(filter(None, listed))}",
            file=sys.stderr,
        )


def _next_command(dataset: str, data_dir: str | os.PathLike) -> str:
    source = source_of(dataset)
    flags = (
        f"--config=agw:{dataset}"
        if source and source.images_per_modality
        else f"--config.data.dataset={dataset}"
    )
    if Path(data_dir) != Path("data"):
        flags += " " + shlex.quote(f"--config.data.data_dir={data_dir}")
    workdir = f"runs/{re.sub(r'/(split(?=[0-9]))?', '_', dataset)}"
    return f"python -m mbn_jax train --workdir={workdir} {flags}"


def _check_room(directory: str | os.PathLike, num_bytes: int) -> None:
    directory = Path(directory).expanduser().absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise InputError(
            f"The data need {num_bytes / 1e6:,.0f} MB, but the disk of {directory} has"
            f" {free / 1e6:,.0f} MB free; make room or give another data directory."
        )
