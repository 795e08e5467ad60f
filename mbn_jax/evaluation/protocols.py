"""The protocols of the field: who is query, who is gallery, what is skipped.

Each is a `Protocol` that a function makes: `embedded`, `sysu_mm01`, `regdb` and `llcm`;
`standard_protocols` gives those that a data set is reported by. docs/protocols.md tells
them apart for a person.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

from mbn_jax.errors import InputError
from mbn_jax.evaluation.galleries import Draw, OfficialDraw, Permutations, SeededDraw
from mbn_jax.evaluation.records import INFRARED, VISIBLE
from mbn_jax.evaluation.rules import Protocol

_WORDS = ("visible", "infrared")

Direction = Literal["infrared_to_visible", "visible_to_infrared"]
Search = Literal["all", "indoor"]
Gallery = Literal["agw", "official"]
Variant = Literal["plain", "swapped"]


def embedded(direction: Direction = "infrared_to_visible") -> Protocol:
    """Every image of one modality against every image of the other."""
    query, gallery = _modalities(direction)
    return Protocol(
        name=direction,
        title=f"{_WORDS[query]} → {_WORDS[gallery]}",
        description=(
            f"Every {_WORDS[query]} image of the split is a query against every "
            f"{_WORDS[gallery]} image of it (one gallery, no sampling); gallery images "
            "with both the identity and the camera of a query are removed for that "
            "query, queries left without a match are not scored, and the CMC counts "
            "images, not identities."
        ),
        query_modality=query,
        gallery_modality=gallery,
        remove_same_camera=True,
    )


def sysu_mm01(
    search: Search = "all",
    shots: int = 1,
    gallery: Gallery = "agw",
    permutations: Permutations | None = None,
) -> Protocol:
    """SYSU-MM01 (Wu et al., ICCV 2017): infrared queries, drawn visible galleries.

    Args:
        search: "all" takes the gallery from cameras 1, 2, 4 and 5, "indoor" from 1, 2.
        shots: gallery images of each identity in each camera; all of them where there
            are fewer.
        gallery: "agw" draws it by the seeds 0 to 9, as most published figures do;
            "official" by the authors' permutations.
        permutations: from `read_permutations`, for "official".

    Raises:
        InputError: an option is not one of the above.
    """
    _check_choice("search", search, Search)
    _check_choice("gallery", gallery, Gallery)
    if not isinstance(shots, int) or shots < 1:
        raise InputError(
            f"shots is {shots!r}, but a whole number of gallery images, 1 or more, is "
            "expected."
        )
    draw: Draw
    if gallery == "official":
        if permutations is None:
            raise InputError(
                "The official galleries need the authors' rand_perm_cam.mat, which "
                "comes with SYSU-MM01: give its path (--rand_perm_cam)."
            )
        draw = OfficialDraw(shots, permutations)
        how = "by the authors' permutations, trials 1 to 10"
    else:
        if permutations is not None:
            raise InputError(
                "The authors' rand_perm_cam.mat was given, but the galleries agw do "
                "not use it: leave it out, or take the official galleries."
            )
        draw = SeededDraw(shots)
        how = "by Python's random with the seeds 0 to 9, as AGW does"
    cameras = (1, 2, 4, 5) if search == "all" else (1, 2)
    # 301 and 112 pairs of an identity and a camera; every one has at least ten images.
    pairs = 301 if search == "all" else 112
    return Protocol(
        name=f"sysu_mm01_{search}_{shots}shot_{gallery}",
        title=(
            f"{search}-search, {'single' if shots == 1 else shots}-shot, "
            f"{gallery} galleries"
        ),
        description=(
            f"Every infrared image is a query; the gallery holds {_up_to(shots)} of "
            "each identity in each of the cameras "
            f"{', '.join(map(str, cameras))}, drawn {how}; a query of camera 3 skips "
            "camera 2 (the same room), queries left without a match are not scored, "
            "and the CMC counts identities."
        ),
        query_modality=INFRARED,
        gallery_modality=VISIBLE,
        gallery_cameras=cameras,
        draw=draw,
        removed_cameras=((3, 2),),
        cmc="identities",
        published_queries=3803,
        published_gallery=pairs * shots if shots <= 10 else None,
    )


def regdb(direction: Direction = "visible_to_infrared") -> Protocol:
    """RegDB (Nguyen et al., Sensors 2017), one of its ten splits."""
    query, gallery = _modalities(direction)
    words = ("visible", "thermal")
    return Protocol(
        name=f"regdb_{direction}",
        title=f"{words[query]} → {words[gallery]}",
        description=(
            f"Every {words[query]} image of the split's test identities is a query "
            f"against every {words[gallery]} image of them; nothing is removed, and "
            "the CMC counts images. Published figures are means over the ten splits, "
            "each with a network of its own."
        ),
        query_modality=query,
        gallery_modality=gallery,
        published_queries=2060,
        published_gallery=2060,
    )


def llcm(
    direction: Direction = "visible_to_infrared", variant: Variant = "plain"
) -> Protocol:
    """LLCM (Zhang and Wang, CVPR 2023), in either of two incompatible readings.

    Args:
        direction: which modality is looked for in which.
        variant: "plain" draws the gallery. "swapped" exchanges the roles afterwards, as
            the authors' test script does for visible → infrared: the drawn images
            are the queries and all images of the other modality the gallery.

    Raises:
        InputError: an option is not one of the above.
    """
    _check_choice("variant", variant, Variant)
    whole, drawn = _modalities(direction)
    title = f"{_WORDS[whole]} → {_WORDS[drawn]}, {variant}"
    rest = (
        "drawn by Python's random with the seeds 0 to 9; gallery images with both the "
        "identity and the camera of a query are removed for that query, queries left "
        "without a match are not scored, and the CMC counts identities."
    )
    one_each = f"one {_WORDS[drawn]} image of each identity in each camera"
    if variant == "plain":
        rule = f"Every {_WORDS[whole]} image is a query; the gallery holds {one_each}"
        query, gallery = whole, drawn
    else:
        rule = f"Every {_WORDS[whole]} image is in the gallery"
        if direction == "visible_to_infrared":
            rule += ", although such figures are published as visible → infrared"
        rule += f"; the queries are {one_each}"
        query, gallery = drawn, whole
    num_whole = {VISIBLE: 8680, INFRARED: 7166}[whole]
    return Protocol(
        name=f"llcm_{direction}_{variant}",
        title=title,
        description=f"{rule}, {rest}",
        query_modality=query,
        gallery_modality=gallery,
        draw=SeededDraw(1),
        queries_are_drawn=variant == "swapped",
        remove_same_camera=True,
        cmc="identities",
        published_queries=num_whole if variant == "plain" else None,
        published_gallery=num_whole if variant == "swapped" else None,
    )


def standard_protocols(dataset: str) -> tuple[Protocol, ...]:
    """The protocols that a data set is reported by, the usual one first.

    Args:
        dataset: its name, for example "sysu_mm01", "regdb/split3".

    Raises:
        InputError: the data set is not known.
    """
    directions: tuple[Direction, ...] = get_args(Direction)
    match dataset.partition("/")[0]:
        case "synthetic_vireid":
            return EMBEDDED_PROTOCOLS
        case "sysu_mm01":
            return sysu_mm01("all"), sysu_mm01("indoor")
        case "regdb":
            return tuple(regdb(direction) for direction in reversed(directions))
        case "llcm":
            return tuple(llcm(direction) for direction in reversed(directions))
    raise InputError(
        f"There is no protocol for the data set {dataset!r}; there are protocols for "
        "synthetic_vireid, sysu_mm01, regdb and llcm."
    )


def make_protocol(family: str, **options: Any) -> Protocol:
    """The protocol of a data set's family by name, for flags and configurations.

    Args:
        family: "synthetic_vireid", "sysu_mm01", "regdb" or "llcm".
        **options: arguments of the function of that family; defaults for the others.

    Raises:
        InputError: the family is not known, has no such option, or refuses its value.
    """
    if family not in _FAMILIES:
        raise InputError(
            f"There is no protocol {family!r}; there are {', '.join(_FAMILIES)}."
        )
    known = list(inspect.signature(_FAMILIES[family]).parameters)
    for option in options:
        if option not in known:
            names = ", ".join(known).replace("permutations", "rand_perm_cam")
            raise InputError(
                f"The protocol {family} has no option {option!r}; it has {names}."
            )
    return _FAMILIES[family](**options)


def _up_to(shots: int) -> str:
    return "one visible image" if shots == 1 else f"up to {shots} visible images"


_FAMILIES: dict[str, Callable[..., Protocol]] = {
    "synthetic_vireid": embedded,
    "sysu_mm01": sysu_mm01,
    "regdb": regdb,
    "llcm": llcm,
}


def _modalities(direction: Direction) -> tuple[int, int]:
    _check_choice("direction", direction, Direction)
    return {
        "infrared_to_visible": (INFRARED, VISIBLE),
        "visible_to_infrared": (VISIBLE, INFRARED),
    }[direction]


def _check_choice(option: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise InputError(
            f"{option} is {value!r}, but one of {', '.join(get_args(choices))} is "
            "expected."
        )


# The protocols of the embedded data sets, in the order in which they are shown.
INFRARED_TO_VISIBLE = embedded("infrared_to_visible")
VISIBLE_TO_INFRARED = embedded("visible_to_infrared")
EMBEDDED_PROTOCOLS = (INFRARED_TO_VISIBLE, VISIBLE_TO_INFRARED)
