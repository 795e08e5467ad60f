"""The TFDS builder of LLCM."""

import os
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mbn_jax.data.llcm import tree
from mbn_jax.data.tree import Tree
from mbn_jax.data.tree_builder import TreeBuilder


class Builder(TreeBuilder):
    """LLCM, from a copy that its authors have given you.

    `python experiments/prepare_data.py --dataset=llcm --manual_dir=DIR` uses it.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Ask the authors (github.com/ZYK100/LLCM) and unpack, so that DIR holds

    vis/ nir/ test_vis/ test_nir/    cam{1..9}/{identity:04d}/*.jpg
    idx/    train_vis.txt, train_nir.txt, test_vis.txt, test_nir.txt: "path label" in
            each line; test_id.txt: identities, comma separated
    """
    # TFDS 4.9.10 finds this by way of importlib_resources, which it does not install.
    code_path = Path(__file__)

    def scan(self, manual_dir: str | os.PathLike) -> Tree:
        """Walks the folder of the data set."""
        return tree.scan(manual_dir)
