"""How the counts of an image of 16 bits become 8 bits.

Thermal and scientific cameras give counts that fill a part of 16 bits: a microbolometer
14 bits of them, a room a few hundred counts. What is black and what is white is
therefore a choice, which is made for each modality:

* ``auto``: a gray image is stretched from its own 1st to its own 99th percentile; an
  image with color is taken to fill 16 bits, 0 to 65535.
* ``LOW,HIGH``: these counts, the same for all images: a temperature has one gray value.
* ``minmax``: from the smallest to the largest count of each image.
* ``percentiles``: from the 1st to the 99th percentile of each image, also with color.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mbn_jax.errors import InputError

FLAG = "sixteen_bits"
HELP = (
    "How images of 16 bits are scaled to 8: LOW,HIGH in counts, minmax, percentiles, or"
    " auto; NAME=... for the images of one modality. docs/own-data.md has the rules."
)
_LARGEST = 65535
_RULES = ("auto", "minmax", "percentiles")
_SMALL_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Scale:
    """Which counts become 0 and 255; those between are scaled linearly."""

    rule: str = "auto"  # or "minmax", "percentiles", "fixed"
    low: int = 0  # of "fixed": the count that becomes 0, with those below
    high: int = _LARGEST  # of "fixed": the count that becomes 255, with those above

    def __str__(self) -> str:
        """Returns the text that `scale_from_text` reads."""
        return f"{self.low},{self.high}" if self.rule == "fixed" else self.rule

    def limits(self, image: np.ndarray) -> tuple[float, float]:
        """Returns the counts of an image (h, w, 3) uint16 that become 0 and 255."""
        if self.rule == "fixed":
            return self.low, self.high
        if self.rule == "minmax":
            return image.min(), image.max()
        is_gray = (image == image[..., :1]).all()
        if self.rule == "auto" and not is_gray:
            return 0, _LARGEST
        low, high = np.percentile(image[..., 0] if is_gray else image, (1, 99))
        return low, high


AUTO = Scale()


def scale_from_text(text: str) -> Scale:
    """Reads a scale as it is written on a command line.

    Raises:
        InputError: it is none.
    """
    if text in _RULES:
        return Scale(text)
    counts = re.fullmatch(r"\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*", text)
    if counts:
        low, high = map(int, counts.groups())
        if low < high <= _LARGEST:
            return Scale("fixed", low, high)
    raise InputError(
        f"{text!r} is not a scale of images of 16 bits; expected LOW,HIGH (two counts"
        f" from 0 to {_LARGEST}, the smaller one first), {', '.join(_RULES[1:])} or"
        f" {_RULES[0]}: for example --{FLAG}=0,16383 or --{FLAG}=thermal=7000,9000."
    )


def scales_by_modality(
    values: Iterable[str],
    modalities: Sequence[str],
    default: Mapping[str, Scale] | None = None,
) -> dict[str, Scale]:
    """Reads the values of the repeated flag ``--sixteen_bits``.

    Args:
        values: "SCALE", for every modality that has none of its own, or "NAME=SCALE".
        modalities: the names that there are.
        default: the scales of modalities for which no value is given, if not `AUTO`.

    Returns:
        The scale of each modality, those with `AUTO` left out.

    Raises:
        InputError: a value is not a scale, is given twice, or is for another modality.
    """
    found: dict[str, Scale] = {}
    for value in values:
        name, _, text = value.rpartition("=")
        if name and name not in modalities:
            raise InputError(
                f"--{FLAG}={value} is for images of {name}, but there are only"
                f" {', '.join(modalities)}; give one of these names."
            )
        if name in found:
            raise InputError(
                f"--{FLAG} is given twice {f'for {name}' if name else 'without a name'}"
                f" ({found[name]} and {text}); leave one of the two out."
            )
        found[name] = scale_from_text(text)
    scales = {
        name: found.get(name, found.get("", (default or {}).get(name, AUTO)))
        for name in modalities
    }
    return {name: scale for name, scale in scales.items() if scale != AUTO}


def as_texts(scales: Mapping[str, Scale]) -> dict[str, str]:
    """Returns the scales in the order of their names, for JSON."""
    return {name: str(scales[name]) for name in sorted(scales)}


def eight_bits(image: np.ndarray, scale: Scale = AUTO) -> np.ndarray:
    """Scales an image (h, w, 3) uint16 to uint8; one of uint8 is returned as it is."""
    if image.dtype == np.uint8:
        return image
    low, high = scale.limits(image)
    # A table of all counts: in floating point, a photograph would take gigabytes.
    unit = (np.arange(_LARGEST + 1) - np.float64(low)) / max(float(high - low), 1)
    return np.round(255 * np.clip(unit, 0, 1)).astype(np.uint8)[image]


def narrow_range(stored: np.ndarray, scaled: np.ndarray) -> str:
    """Says if an image of 16 bits is nearly uniform once `eight_bits` has scaled it.

    Returns:
        A phrase where nearly all values lie within a tenth of the range, otherwise "".
    """
    if stored.dtype == np.uint8:
        return ""
    low, high = np.percentile(scaled, (1, 99))
    if high - low >= _SMALL_SHARE * 255:
        return ""
    return (
        f"uses less than a tenth of its range (values {low:.0f} to {high:.0f} of 255,"
        f" from counts {stored.min()} to {stored.max()})"
    )
