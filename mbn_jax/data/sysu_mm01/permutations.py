"""The file of official galleries, which tells how many images every folder has, too."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mbn_jax.errors import InputError

NUM_TRIALS = 10

# By (camera, identity): row t - 1 is the order of the image numbers in trial t.
Permutations = Mapping[tuple[int, int], np.ndarray]


def read_permutations(path: str | Path) -> Permutations:
    """Reads ``rand_perm_cam.mat``, which comes with SYSU-MM01.

    Args:
        path: of the file. Its variable of the same name is a cell array (6, 1) over
            cameras, of cell arrays over identities, of (10, number of images) numbers
            from 1: row t is the order of the images in trial t.

    Returns:
        The (10, n) integer arrays by (camera, identity), without the empty ones.

    Raises:
        InputError: the file is missing or is something else.
    """
    # Imported here: it takes a while, and few need it.
    import scipy.io

    try:
        with open(path, "rb") as file:
            cameras = scipy.io.loadmat(file)["rand_perm_cam"]
        orders = {
            (camera, identity): np.asarray(order, np.int64)
            for camera, cell in enumerate(cameras[:, 0], start=1)
            for identity, order in enumerate(cell.ravel(), start=1)
            if order.size
        }
        whole = all(_is_permutations(order) for order in orders.values())
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; give the path of rand_perm_cam.mat, which lies in "
            "the folder exp of SYSU-MM01 or of its repository."
        ) from error
    # What scipy raises for a file that is no .mat, or a damaged one, and numpy for
    # another content have no class in common but this.
    except Exception as error:
        raise InputError(
            f"{path} is not the rand_perm_cam.mat of SYSU-MM01 ({error}); give that "
            "file."
        ) from error
    if not orders or not whole:
        raise InputError(
            f"{path} does not hold ten permutations of the images of every identity in "
            "every camera; give the rand_perm_cam.mat of SYSU-MM01."
        )
    return orders


def _is_permutations(orders: np.ndarray) -> bool:
    numbers = np.arange(1, orders.shape[-1] + 1)
    return orders.shape == (NUM_TRIALS, len(numbers)) and bool(
        (np.sort(orders, axis=1) == numbers).all()
    )
