"""Published data sets and made ones: one file each, which says all about it.

A new data set is a file that defines ``SOURCE`` and a line in `MODULES`.
"""

import importlib

from mbn_jax.data.sources.source import Source

MODULES = {
    "synthetic_vireid": "mbn_jax.data.sources.synthetic_vireid",
    "aligned_pairs": "mbn_jax.data.sources.aligned_pairs",
    "sysu_mm01": "mbn_jax.data.sources.sysu_mm01",
    "regdb": "mbn_jax.data.sources.regdb",
    "llcm": "mbn_jax.data.sources.llcm",
}


def source_of(dataset: str) -> Source | None:
    """Returns the source of a data set by its name, None for a person's own data.

    Args:
        dataset: for example "regdb/split3", or the name of a manifest's data set.
    """
    module = MODULES.get(dataset.partition("/")[0])
    return importlib.import_module(module).SOURCE if module else None


def all_sources() -> list[Source]:
    """Returns every source, in the order of `MODULES`."""
    return [importlib.import_module(module).SOURCE for module in MODULES.values()]
