"""A trained network for images of one modality, as one function of pixels."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mbn_jax import convert
from mbn_jax.data.augment import normalize
from mbn_jax.errors import InputError
from mbn_jax.evaluation.features import numbered
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import stem_name

_SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def inference_function(
    model: ReID, variables: Any, modality: int
) -> Callable[[jax.Array], jax.Array]:
    """Returns what `mbn_jax.embed` computes for one modality, as a function of pixels.

    The normalizations are merged with their convolutions (`mbn_jax.convert.fold`), of
    separate stems the one of the modality is kept, and all is float32, whatever the
    type that the network was trained in.

    Args:
      model: as `mbn_jax.load` returns it.
      variables: of it, of BN or MBN.
      modality: an index into `model.modalities`.

    Returns:
      From images `(B, H, W, 3)` uint8 RGB of `model.image_size` to features `(B, D)`
      float32 of unit length; not jitted.

    Raises:
      InputError: there is no such modality, or the network cannot be folded.
    """
    if not isinstance(model, ReID):
        raise InputError(
            f"The network is a {type(model).__name__} and cannot be folded, but a ReID "
            "is expected: give the work directory of a run, or shared weights."
        )
    if modality not in range(len(model.modalities)):
        raise InputError(
            f"The modality is {modality!r}, but {numbered(model.modalities)} is "
            "expected."
        )
    if model.norm == "none":
        raise InputError(
            "The network has no normalizations to fold, since that was done before: "
            "export the one that it was made from."
        )
    inference: ReID = model.copy(
        norm="none", stem="shared", dtype=jnp.float32, axis_name=None, remat=False
    )
    if model.stem == "separate":
        variables = _with_one_stem(variables, model.modalities, modality)
    if not any(leaf.ndim == 2 for leaf in jax.tree.leaves(variables["batch_stats"])):
        variables = convert.from_batch_norm(variables, len(model.modalities))
    try:
        folded = convert.fold(variables, modality)
    except ValueError as error:
        raise InputError(f"The network cannot be folded: {error}") from error

    def features(images: jax.Array) -> jax.Array:
        # No layer of it asks for the modality any more.
        output: Any = inference.apply(folded, normalize(images), None, train=False)
        # Plain operators, which converters to other formats know.
        squares = jnp.sum(output.embedding**2, axis=1, keepdims=True)
        return output.embedding / jnp.sqrt(jnp.maximum(squares, _SMALLEST))

    return features


def _with_one_stem(
    variables: Any, modalities: Sequence[str], modality: int
) -> dict[str, Any]:
    """Puts the first convolution of one modality in the place of all."""
    backbone = dict(variables["params"]["backbone"])
    stems = [backbone.pop(stem_name(name)) for name in modalities]
    params = {**variables["params"], "backbone": {**backbone, "conv1": stems[modality]}}
    return {**variables, "params": params}
