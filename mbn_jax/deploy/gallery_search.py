"""Compares folders of images: feature files, and ranked lists of a gallery."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import mbn_jax
from mbn_jax.analysis.ranked_lists import RankedList, draw_ranked_lists
from mbn_jax.deploy.embed import EmbeddedFolder, modality_indices, read_images
from mbn_jax.deploy.exported import ExportedModel
from mbn_jax.errors import InputError
from mbn_jax.evaluation.ranking import nearest
from mbn_jax.files import check_file, write_atomically
from mbn_jax.models.weights import fingerprint

_MOST_LISTS = 10


def check_output(path: str | Path) -> None:
    """Raises `InputError` where a file cannot be written in a folder that exists.

    Call this before starting expensive work.
    """
    parent = Path(path).absolute().parent
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise InputError(
            f"{path} cannot be written, because {parent} is not a folder that may be "
            "written to: make it, or name another place."
        )
    check_file(path)


def load_networks(needed: Iterable[tuple[str | Path, str]]) -> list[tuple[Any, Any]]:
    """Loads networks by their paths for modalities, and checks that they fit.

    A path that is given twice is loaded once.

    Returns:
      For each the model and its variables.

    Raises:
      InputError: there is no network, one has no such modality or was exported for
        another one, or they are not forms of one network.
    """
    needed = list(needed)
    loaded = {path: mbn_jax.load(path) for path in dict(needed)}
    for path, modality in needed:
        try:
            modality_indices(loaded[path][0], modality, 1)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if len(loaded) > 1 and len({_identify(*one) for one in loaded.values()}) > 1:
        raise InputError(
            f"{' and '.join(map(str, loaded))} are of different networks, whose "
            "features cannot be compared: use models that were made from one "
            "network."
        )
    return [loaded[path] for path, _ in needed]


def _identify(model: Any, variables: Any) -> str:
    return model.network if isinstance(model, ExportedModel) else fingerprint(variables)


def write_features(embedded: EmbeddedFolder, output: str | Path) -> None:
    """Writes the features of a folder to an `.npz`, whole or not at all.

    The archive holds `features` (N, D) float32; `name` (N,), the paths relative to the
    folder; and `sixteen_bits`, the scale of images of 16 bits.

    Raises:
      InputError: the archive cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=embedded.features,
        name=np.array(embedded.names),
        sixteen_bits=np.array(str(embedded.reading.scale)),
    )
    _write(output, buffer)


def draw_search(
    query: EmbeddedFolder,
    gallery: EmbeddedFolder,
    image_size: tuple[int, int],
    output: str | Path,
) -> None:
    """Draws the first ten images of a ranked gallery for each query, as a PNG file.

    Of more than ten queries, ten are drawn, evenly spaced in the order of their names.

    Raises:
      InputError: the features of the two cannot be compared, or the output cannot be
        written.
    """
    lengths = query.features.shape[1], gallery.features.shape[1]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"Features of the queries have {lengths[0]} numbers and those of the "
            f"gallery {lengths[1]}: use models that were made from one network."
        )
    count = min(_MOST_LISTS, len(query.names))
    lists = []
    for index in np.linspace(0, len(query.names) - 1, count).round().astype(int):
        found = nearest(query.features[index], gallery.features)
        name, best = query.names[index], [gallery.names[i] for i in found]
        shown = read_images(query.folder, [name], image_size, query.reading)
        ranked = read_images(gallery.folder, best, image_size, gallery.reading)
        lists.append(RankedList(shown[0], name, [*ranked], best, [None] * len(best)))
    title = f"{count} of {len(query.names)} queries, each with its first {len(best)} of"
    figure = draw_ranked_lists(lists, f"{title} {len(gallery.names)} gallery images")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(output, buffer)


def _write(output: str | Path, content: io.BytesIO) -> None:
    try:
        write_atomically(Path(output), content.getvalue())
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror or error}): make room, or "
            "name another place."
        ) from error
