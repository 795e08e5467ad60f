"""Exports a trained network for images of one modality, and checks the file."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from mbn_jax import convert
from mbn_jax.deploy.embed import embed, numbered
from mbn_jax.deploy.exported import ExportedModel, load_exported, save_exported
from mbn_jax.errors import InputError
from mbn_jax.files import check_file
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import stem_name
from mbn_jax.models.weights import fingerprint
from mbn_jax.pixels import normalize

PLATFORMS = ("cpu", "cuda")
# Of components of unit vectors in float32; folding alone moves them by some 1e-7.
TOLERANCE = 1e-4
BATCH_SIZES = (1, 3, 8)
_SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def inference_function(
    model: ReID, variables: Any, modality: int
) -> Callable[[jax.Array], jax.Array]:
    """Returns what `mbn_jax.embed` computes for one modality, as a function of pixels.

    The normalizations are merged with their convolutions (`mbn_jax.convert.fold`), the
    stem of the modality is kept if each has its own, and everything is float32, also
    for a network that was trained in another type.

    Args:
      model: as `mbn_jax.load` returns it, with norm "bn" or "mbn".
      variables: as `mbn_jax.load` returns them.
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
        backbone = dict(variables["params"]["backbone"])
        stems = [backbone.pop(stem_name(name)) for name in model.modalities]
        backbone["conv1"] = stems[modality]
        params = {**variables["params"], "backbone": backbone}
        variables = {**variables, "params": params}
    if not any(leaf.ndim == 2 for leaf in jax.tree.leaves(variables["batch_stats"])):
        variables = convert.from_batch_norm(variables, len(model.modalities))
    try:
        folded = convert.fold(variables, modality)
    except ValueError as error:
        raise InputError(f"The network cannot be folded: {error}") from error

    def features(images: jax.Array) -> jax.Array:
        # No layer needs the modality any more.
        output: Any = inference.apply(folded, normalize(images), None, train=False)
        # Plain operators, which converters to other formats know.
        squares = jnp.sum(output.embedding**2, axis=1, keepdims=True)
        return output.embedding / jnp.sqrt(jnp.maximum(squares, _SMALLEST))

    return features


def export(
    model: ReID,
    variables: Any,
    modality: int,
    *,
    platforms: tuple[str, ...] = PLATFORMS,
) -> ExportedModel:
    """Exports the network for images of one modality (`inference_function`).

    Args:
      model: as `mbn_jax.load` returns it.
      variables: as `mbn_jax.load` returns them.
      modality: an index into `model.modalities`.
      platforms: that the program is lowered for, as `jax.export` names them.

    Raises:
      InputError: as `inference_function`.
    """
    features = jax.jit(inference_function(model, variables, modality))
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.image_size, 3), jnp.uint8)
    with _without_source_paths():
        exported = jax_export.export(features, platforms=platforms)(images)
    return ExportedModel(
        model.image_size,
        modality,
        tuple(model.modalities),
        fingerprint(variables),
        exported,
        tuple(model.sixteen_bits),
    )


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
    """Lets JAX trace and lower without paths of source files.

    Whoever gets the program would read the names of folders of this machine in it.
    """
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def export_checked(
    model: ReID, variables: Any, modality: int, output: str | Path, *, seed: int = 0
) -> tuple[ExportedModel, float]:
    """Exports a network, reads the file again, and compares its features.

    Args:
      model: as `mbn_jax.load` returns it.
      variables: as `mbn_jax.load` returns them.
      modality: an index into `model.modalities`.
      output: path of the file, which is replaced only if the features agree.
      seed: of the random images, which come in batches of `BATCH_SIZES`.

    Returns:
      The exported model in the file, and the largest difference between a component of
      its features and the network's, which is compared in float32.

    Raises:
      InputError: as `export`; the file cannot be written; or a difference is larger
        than `TOLERANCE`.
    """
    check_file(output)
    output = Path(output)
    unchecked = output.with_name(output.name + ".unchecked")
    rng = np.random.default_rng(seed)
    reference = model.copy(dtype=jnp.float32)
    try:
        save_exported(unchecked, export(model, variables, modality))
        exported = load_exported(unchecked)
        differences = []
        for count in BATCH_SIZES:
            images = rng.integers(0, 256, (count, *model.image_size, 3), dtype=np.uint8)
            expected = embed(reference, variables, images, modality)
            found = np.asarray(exported.features(jnp.asarray(images)))
            differences.append(np.abs(found - expected).max())
        difference = float(np.max(differences))
        if not difference <= TOLERANCE:  # NaN is refused, too
            raise InputError(
                f"The exported network gives features that differ by {difference:.2g} "
                f"from those of the network, expected at most {TOLERANCE:.0e}; nothing "
                f"was written to {output}."
            )
        unchecked.replace(output)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); name another place."
        ) from error
    finally:
        # Where the file could not be written, it cannot be removed either.
        with contextlib.suppress(OSError):
            unchecked.unlink()
    return exported, difference
