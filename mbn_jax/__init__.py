"""Modality Batch Normalization and visible-infrared person re-identification in JAX.

Importing the package imports nothing else; every name is loaded on first use. The layer
and its functions need jax, flax and NumPy. The other names need the extra `reid`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbn_jax import convert, data, evaluation, functional, losses, models, nnx
    from mbn_jax.context import by_modality
    from mbn_jax.deploy.embed import embed
    from mbn_jax.deploy.loading import load
    from mbn_jax.errors import InputError
    from mbn_jax.functional import Moments, modality_moments
    from mbn_jax.models.reid import ReID
    from mbn_jax.models.shared import load_pretrained, save_pretrained
    from mbn_jax.norm import ModalityBatchNorm

__version__ = "0.1.0"

# Where a name is, in modules that need no extra and in those that do.
_OF_THE_LAYER = {
    "InputError": "errors",
    "ModalityBatchNorm": "norm",
    "Moments": "functional",
    "by_modality": "context",
    "modality_moments": "functional",
}
_OF_THE_SYSTEM = {
    "ReID": "models.reid",
    "embed": "deploy.embed",
    "load": "deploy.loading",
    "load_pretrained": "models.shared",
    "save_pretrained": "models.shared",
}
_MODULES_OF_THE_LAYER = ("convert", "functional", "nnx")
_MODULES_OF_THE_SYSTEM = ("data", "evaluation", "losses", "models")

__all__ = [
    "InputError",
    "ModalityBatchNorm",
    "Moments",
    "ReID",
    "by_modality",
    "convert",
    "data",
    "embed",
    "evaluation",
    "functional",
    "load",
    "load_pretrained",
    "losses",
    "modality_moments",
    "models",
    "nnx",
    "save_pretrained",
]


def __getattr__(name: str) -> Any:
    if name in (*_OF_THE_SYSTEM, *_MODULES_OF_THE_SYSTEM):
        from mbn_jax.extras import require_system

        require_system(f"{__name__}.{name}")
    elif name not in (*_OF_THE_LAYER, *_MODULES_OF_THE_LAYER):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = (_OF_THE_LAYER | _OF_THE_SYSTEM).get(name)
    if home is None:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from mbn_jax.extras import missing_packages

    # help() and completion access every name, which must not fail without the extra.
    without = {*_OF_THE_SYSTEM, *_MODULES_OF_THE_SYSTEM} if missing_packages() else ()
    return sorted({*globals(), *__all__} - set(without))
