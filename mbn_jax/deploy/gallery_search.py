"""Features and ranked lists of a folder, as the command `embed` writes them."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mbn_jax
from mbn_jax.analysis.ranked_lists import RankedList, draw_ranked_lists
from mbn_jax.deploy.embed import check_modality
from mbn_jax.deploy.folder import (
    Reading,
    embed_folder,
    find_images,
    read_images,
)
from mbn_jax.deploy.loading import identify
from mbn_jax.errors import InputError
from mbn_jax.evaluation.ranking import nearest
from mbn_jax.files import check_file, write_atomically

_MOST_LISTS = 10


def check_places(folders: Iterable[str | Path], outputs: Iterable[str | Path]) -> None:
    """Raises `InputError` before any work is done that would be in vain.

    Args:
        folders: each must hold a picture.
        outputs: files, each of which must be possible to write.
    """
    for folder in folders:
        find_images(folder)
    for output in map(Path, outputs):
        parent = output.absolute().parent
        if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
            raise InputError(
                f"{output} cannot be written, because {parent} is not a folder that "
                "may be written to: make it, or name another place."
            )
        check_file(output)


def load_networks(needed: Iterable[tuple[str | Path, str]]) -> list[tuple[Any, Any]]:
    """Loads what embeds the queries and their gallery, and checks it before any work.

    Args:
        needed: for each the path, as `mbn_jax.load` takes it, and the name of the
          modality of its images. What comes again is loaded once.

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
            check_modality(loaded[path][0], modality)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if len(loaded) > 1 and len({identify(*one) for one in loaded.values()}) > 1:
        raise InputError(
            f"{' and '.join(map(str, loaded))} are of different networks, whose "
            "features cannot be compared: give two that were made from one."
        )
    return [loaded[path] for path, _ in needed]


def embed_pictures(
    model: Any,
    variables: Any,
    images: str | Path,
    modality: str,
    output: str | Path,
    reading: Reading | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Writes the features of a folder of pictures to an ``.npz``.

    The archive holds ``features`` (N, D) float32, rows of length one, and ``name``
    (N,), the paths relative to the folder, sorted; ``sixteen_bits`` is the scale of
    images of 16 bits. It appears whole or not at all.

    Args:
        model: as `mbn_jax.load` returns it.
        variables: as `mbn_jax.load` returns them.
        images: the folder, see `mbn_jax.deploy.folder.find_images`.
        modality: its name.
        output: path of the archive.
        reading: how the pictures are read; None for `Reading()`.

    Returns:
        The features and the names.

    Raises:
        InputError: no picture, one that cannot be read, or the archive cannot be
          written.
    """
    features, names = embed_folder(model, variables, images, modality, reading)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=features,
        name=np.array(names),
        sixteen_bits=np.array(str((reading or Reading()).scale)),
    )
    _write(Path(output), buffer.getvalue())
    return features, names


def draw_gallery_search(
    model: Any,
    variables: Any,
    query: tuple[str | Path, np.ndarray, list[str]],
    gallery: str | Path,
    gallery_modality: str,
    output: str | Path,
    readings: Sequence[Reading | None] = (None, None),
) -> None:
    """Ranks a folder of gallery pictures for each query and draws the first ten.

    Of more than ten queries, ten are drawn, evenly spaced in the order of their names.

    Args:
        model: of the gallery, as `mbn_jax.load` returns it.
        variables: as `mbn_jax.load` returns them.
        query: the query folder, its features and its names, as `embed_pictures` gives.
        gallery: the folder of gallery pictures.
        gallery_modality: its name.
        output: path of the picture.
        readings: how the pictures of the queries and those of the gallery are read;
          None for `Reading()`.

    Raises:
        InputError: no picture, one that cannot be read, features that cannot be
          compared with those of the queries, or the output cannot be written.
    """
    folder, features, names = query
    gallery_features, gallery_names = embed_folder(
        model, variables, gallery, gallery_modality, readings[1]
    )
    if gallery_features.shape[1] != features.shape[1]:
        raise InputError(
            f"Features of the queries have {features.shape[1]} numbers and those of "
            f"the gallery {gallery_features.shape[1]}: use models that were made from "
            "one network."
        )
    count = min(_MOST_LISTS, len(names))
    lists = []
    for index in np.linspace(0, len(names) - 1, count).round().astype(int):
        found = nearest(features[index], gallery_features)
        best = [gallery_names[i] for i in found]
        lists.append(
            RankedList(
                query=read_images(
                    folder, [names[index]], model.image_size, readings[0]
                )[0],
                query_caption=names[index],
                gallery=list(read_images(gallery, best, model.image_size, readings[1])),
                captions=best,
                correct=[None] * len(best),
            )
        )
    title = f"{count} of {len(names)} queries, each with its first {len(best)} of "
    figure = draw_ranked_lists(lists, f"{title}{len(gallery_names)} gallery pictures")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    _write(Path(output), buffer.getvalue())


def _write(output: Path, content: bytes) -> None:
    try:
        write_atomically(output, content)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror or error}): make room, or "
            "name another place."
        ) from error
