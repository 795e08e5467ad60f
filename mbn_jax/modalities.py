"""The names of modalities: their order, and which of them have color."""

from collections.abc import Iterable, Sequence

from mbn_jax.errors import InputError

# The names for a network or a feature file without names of its own.
DEFAULT = ("visible", "infrared")
# Modalities with these names, in any case, have color. Augmentation treats the images
# of all others as gray, even if their files have three different channels.
COLOR = ("color", "colour", "rgb", "vis", "visible")


def has_color(name: str) -> bool:
    """Returns whether the images of a modality have color, by its name."""
    return name.casefold() in COLOR


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Returns distinct names in the order of their indices.

    Modalities with color come first, then the others, each in alphabetical order:
    "visible" is 0 and "infrared" is 1; "visible" 0, "nir" 1, "thermal" 2.
    """
    return tuple(sorted(set(names), key=lambda name: (not has_color(name), name)))


def index(name: str, modalities: Sequence[str] = DEFAULT) -> int:
    """Returns the index of a modality; raises `InputError` if there is none."""
    if name not in modalities:
        raise InputError(
            f"There is no modality {name!r}; expected one of {', '.join(modalities)}."
        )
    return list(modalities).index(name)
