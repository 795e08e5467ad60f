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
    from mbn_jax.deploy.load import load
    from mbn_jax.errors import InputError
    from mbn_jax.functional import Moments, modality_moments
    from mbn_jax.models.reid import ReID
    from mbn_jax.models.weights import load_pretrained, save_pretrained
    from mbn_jax.norm import ModalityBatchNorm

__version__ = "0.1.0"

_OF_THE_LAYER = {
    *("InputError", "ModalityBatchNorm", "Moments", "by_modality", "convert"),
    *("functional", "modality_moments", "nnx"),
}
# Of each name that is not a module, the module that it is in.
_HOMES = {
    "InputError": "errors",
    "ModalityBatchNorm": "norm",
    "Moments": "functional",
    "ReID": "models.reid",
    "by_modality": "context",
    "embed": "deploy.embed",
    "load": "deploy.load",
    "load_pretrained": "models.weights",
    "modality_moments": "functional",
    "save_pretrained": "models.weights",
}

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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _OF_THE_LAYER:
        from mbn_jax.errors import require_system

        require_system(f"{__name__}.{name}")
    if name not in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from mbn_jax.errors import missing_packages

    # help() and completion access every name, which must not fail without the extra.
    hidden = set(__all__) - _OF_THE_LAYER if missing_packages() else set()
    return sorted({*globals(), *__all__} - hidden)
