"""From a checked tree to a TFDS data set: the same order, the same bytes."""

import abc
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from mbn_jax.data.image_check import check_images, check_unchanged
from mbn_jax.data.local_builder import LocalBuilder
from mbn_jax.data.progress import progress
from mbn_jax.data.tree import Tree
from mbn_jax.data.tree_report import refuse_problems
from mbn_jax.evaluation.records import Records

_Examples = Iterator[tuple[str, dict[str, Any]]]

# A shard of photographs is some ten megabytes, and a data set has few shards to open.
_IMAGES_PER_SHARD = 4000


class TreeBuilder(  # type: ignore[call-arg]
    LocalBuilder, tfds.core.ShardBasedBuilder, skip_registration=True
):
    """Base of the builders of data sets that a person has to ask for.

    TFDS would shuffle the examples of a generator and hold them in memory for it; here
    shard after shard is written, and an image is read when its turn comes.

    Attributes:
        tree: what was found in the folder, checked; None to walk and check the manual
            directory that TFDS is given.
    """

    tree: Tree | None = None

    @abc.abstractmethod
    def scan(self, manual_dir: str | os.PathLike) -> Tree:
        """Walks the folder of the data set; defined by each of them."""

    def splits_of(self, tree: Tree) -> Mapping[str, Records]:
        """The splits of this configuration."""
        return tree.splits

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        title = os.path.dirname(self.info.full_name)  # without the version
        if self.tree is None:
            self.tree = check_images(self.scan(dl_manager.manual_dir), title)
            refuse_problems(self.tree)
        total = sum(len(records) for records in self.splits_of(self.tree).values())
        with progress("Converting", "Converted", title, total) as advance:
            self._advance = advance
            super()._download_and_prepare(dl_manager, download_config)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], _Examples]]]:
        assert self.tree is not None
        return {
            split: [
                functools.partial(self._examples, records, start)
                for start in range(0, len(records), _IMAGES_PER_SHARD)
            ]
            for split, records in self.splits_of(self.tree).items()
        }

    def _examples(self, records: Records, start: int) -> _Examples:
        assert self.tree is not None
        for i in range(start, min(start + _IMAGES_PER_SHARD, len(records))):
            name = str(records.name[i])
            example = {
                # A path, which TFDS reads when it writes: it keeps the examples of a
                # shard until their end to count them.
                "image": os.fspath(check_unchanged(self.tree, name)),
                "identity": int(records.identity[i]),
                "camera": int(records.camera[i]),
                "modality": int(records.modality[i]),
                "name": name,
            }
            yield name, example
            self._advance()
