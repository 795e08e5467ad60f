"""The TFDS builder of SYSU-MM01."""

import os
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mbn_jax.data.sysu_mm01 import tree
from mbn_jax.data.tree import Tree
from mbn_jax.data.tree_builder import TreeBuilder


class Builder(TreeBuilder):
    """SYSU-MM01, from a copy that its authors have given you.

    `python experiments/prepare_data.py --dataset=sysu_mm01 --manual_dir=DIR` uses it.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Ask the authors (github.com/wuancong/SYSU-MM01) and unpack, so that DIR holds

    cam1/ … cam6/    {identity:04d}/{image:04d}.jpg, identities from 0001
    exp/             train_id.txt, val_id.txt, test_id.txt: identities, comma separated;
                     available_id.txt and .mat files may be there
    """
    # TFDS 4.9.10 finds this by way of importlib_resources, which it does not install.
    code_path = Path(__file__)

    def scan(self, manual_dir: str | os.PathLike) -> Tree:
        """Walks the folder of the data set."""
        return tree.scan(manual_dir)
