"""The program of an exported network: what it may do, take, give and tell."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

# JAX's own, which compares the size of a batch with what the program was written for.
_ALLOWED_CALL = "custom_call @shape_assertion("
_BATCH_SIZES = (1, 3)


@contextmanager
def without_source_paths() -> Iterator[None]:
    """Lets JAX trace and lower without the places in source files.

    They would name the folders of this machine to whoever gets the program.
    """
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def check_program(
    exported: jax_export.Exported, image_size: tuple[int, int], platforms: Any
) -> None:
    """Refuses a program that is not a function of images to features.

    Whether it gives the right features, or takes more time and memory than there is, no
    check can tell.

    Args:
      exported: the program.
      image_size: (height, width) in pixels that it should take.
      platforms: that it should be for.

    Raises:
      ValueError: it is not from (B, H, W, 3) uint8 to (B, D) float32 for any B, is for
        other platforms, has a loop, or calls something outside of it.
      Exception: JAX cannot read it; of many types.
    """
    height, width = image_size
    if list(exported.platforms) != platforms:
        raise ValueError(f"it is for {', '.join(exported.platforms)}")
    if exported.nr_devices != 1 or exported.disabled_safety_checks:
        raise ValueError("it is for several devices, or without JAX's checks")
    given = set()
    for count in _BATCH_SIZES:
        images = jax.ShapeDtypeStruct((count, height, width, 3), jnp.uint8)
        features: Any = jax.eval_shape(exported.call, images)
        shape: tuple[int, ...] = getattr(features, "shape", ())
        if (
            len(shape) != 2
            or shape[0] != count
            or shape[1] == 0
            or features.dtype != jnp.float32
        ):
            raise ValueError(f"of {count} images it gives {features}")
        given.add(shape[1])
    if len(given) > 1:
        raise ValueError("the length of its features depends on the number of images")
    # Above is what the file says of the program; this is the program itself.
    text = exported.mlir_module()
    main = re.search(r"func\.func public @main\((.*)", text)
    types = re.findall(r"tensor<(\S*?)>", main[1]) if main else []
    if [of for of in types if of != "i32"] != [
        f"?x{height}x{width}x3xui8",
        f"?x{given.pop()}xf32",
    ]:
        raise ValueError(f"it is a function of other types, {', '.join(types)}")
    if "stablehlo.while" in text:
        raise ValueError("it has a loop, which may never end")
    if text.count("custom_call") != text.count(_ALLOWED_CALL):
        raise ValueError("it calls something outside of it")
