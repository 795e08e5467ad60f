"""The options of the protocols as flags of a script."""

from collections.abc import Iterable
from typing import Any

from absl import flags

from mbn_jax.errors import InputError

FAMILIES = ("sysu_mm01", "regdb", "llcm", "synthetic_vireid")

_DEFINED = (
    flags.DEFINE_enum(
        "search",
        None,
        ["all", "indoor"],
        "SYSU-MM01: the gallery is of cameras 1, 2, 4, 5 (all, the default) or of 1, 2 "
        "(indoor).",
    ),
    flags.DEFINE_integer(
        "shots",
        None,
        "SYSU-MM01: gallery images of each identity in each camera; 1 by default.",
    ),
    flags.DEFINE_enum(
        "gallery",
        None,
        ["agw", "official"],
        "SYSU-MM01: galleries drawn by AGW's seeds (the default) or as the authors' "
        "--rand_perm_cam says.",
    ),
    flags.DEFINE_string(
        "rand_perm_cam", None, "SYSU-MM01: path of the authors' rand_perm_cam.mat."
    ),
    flags.DEFINE_enum(
        "direction",
        None,
        ["visible_to_infrared", "infrared_to_visible"],
        "RegDB, LLCM (default: the first) and embedded data (default: the second): "
        "which modality is looked for in which.",
    ),
    flags.DEFINE_enum(
        "variant",
        None,
        ["plain", "swapped"],
        "LLCM: the gallery is drawn (plain, the default), or the queries are.",
    ),
)


def protocol_options() -> dict[str, Any]:
    """The options that the command line gives, for `protocol_of`."""
    return {flag.name: flag.value for flag in _DEFINED if flag.present}


def refuse(names: Iterable[str], other: str) -> None:
    """Raises `InputError` for flags that are given and do not go with another."""
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} does not go with {other}: leave it out.")
