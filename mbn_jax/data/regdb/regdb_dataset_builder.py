"""The TFDS builder of RegDB."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mbn_jax.data.regdb import tree
from mbn_jax.data.tree import Tree
from mbn_jax.data.tree_builder import TreeBuilder
from mbn_jax.evaluation.records import Records


class Builder(TreeBuilder):
    """RegDB, from a copy that its authors have given you.

    `python experiments/prepare_data.py --dataset=regdb --manual_dir=DIR` uses it.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Ask Dongguk University (dm.dgu.edu) and unpack, so that DIR holds

    Visible/ Thermal/    {identity}/*.bmp
    idx/    {train,test}_{visible,thermal}_{1..10}.txt, each line
            "Visible/285/male_back_v_05528_285.bmp 0"
    """
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(
            name=f"split{number}", description=f"The split {number} of the ten."
        )
        for number in tree.NUMBERS
    ]
    # TFDS 4.9.10 finds this by way of importlib_resources, which it does not install.
    code_path = Path(__file__)

    def scan(self, manual_dir: str | os.PathLike) -> Tree:
        """Walks the folder of the data set; reads the index files of one split."""
        number = int(self.builder_config.name.removeprefix("split"))
        return tree.scan(manual_dir, [number])

    def splits_of(self, tree: Tree) -> Mapping[str, Records]:
        """Training and test of the split that is this configuration."""
        name = self.builder_config.name
        return {split: tree.splits[f"{name}/{split}"] for split in ("train", "test")}
