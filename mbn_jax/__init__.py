"""Modality Batch Normalization and visible-infrared person re-identification in JAX.

Importing the package loads the layer and its functions, which need only jax, flax and
NumPy. Names that need the packages of the extra `reid` are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mbn_jax.by_modality import by_modality
from mbn_jax.errors import InputError
from mbn_jax.extras import missing_packages, require_system
from mbn_jax.functional import Moments, modality_moments
from mbn_jax.norm import ModalityBatchNorm

if TYPE_CHECKING:
    from mbn_jax import convert, functional, nnx
    from mbn_jax.deploy.loading import load
    from mbn_jax.deploy.weights import load_pretrained, save_pretrained
    from mbn_jax.evaluation.features import embed

__version__ = "0.1.0"

_LAZY = {
    "embed": "mbn_jax.evaluation.features",
    "load": "mbn_jax.deploy.loading",
    "load_pretrained": "mbn_jax.deploy.weights",
    "save_pretrained": "mbn_jax.deploy.weights",
}
_SUBMODULES = ("convert", "functional", "nnx")

__all__ = [
    "InputError",
    "ModalityBatchNorm",
    "Moments",
    "by_modality",
    "convert",
    "embed",
    "functional",
    "load",
    "load_pretrained",
    "modality_moments",
    "nnx",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"mbn_jax.{name}")
    if name in _LAZY:
        require_system(f"{__name__}.{name}")
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # help() and completion access every name, which must not fail without the extra.
    usable = set() if missing_packages() else _LAZY.keys()
    return sorted({*globals(), *_SUBMODULES, *usable})
