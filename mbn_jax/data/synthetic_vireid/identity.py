"""Who a person is: body, hair, garments and things carried.

Everything here is drawn once per identity and is the same in every image. What a
material looks like is drawn separately for each kind of sensor: neither the
near-infrared reflectance nor the insulation of a garment follows from its color, so
a black coat can be bright in one camera and a striped shirt plain in the other. What
every sensor sees is the shape: lengths of sleeves and hems, width of the cut, hair,
bags.
"""

import colorsys
import dataclasses
from typing import Literal, TypeVar

import numpy as np

Rng = np.random.Generator
T = TypeVar("T")
HairStyle = Literal[
    "bald", "short", "curly", "bob", "long", "ponytail", "bun", "cap", "beanie"
]
PatternKind = Literal[
    "plain", "hoops", "stripes", "checks", "dots", "block", "logo", "side_stripe"
]
BagKind = Literal["none", "backpack", "handbag", "messenger", "tote", "trolley"]


@dataclasses.dataclass(frozen=True)
class Material:
    """What the three kinds of sensor see of a surface.

    Attributes:
      color: linear RGB reflectance, each in [0, 1].
      near_infrared: reflectance under the near-infrared lamp, in [0, 1].
      insulation: 0 for a surface as warm as the skin, 1 for one as cool as the air.
    """

    color: tuple[float, float, float]
    near_infrared: float
    insulation: float


@dataclasses.dataclass(frozen=True)
class Fabric:
    """A ground, a second dye, and the pattern that the second dye makes.

    Attributes:
      ground: the material of the garment.
      print: the material of the pattern.
      pattern: the kind of pattern.
      period: its repeat in meters.
    """

    ground: Material
    print: Material
    pattern: PatternKind
    period: float


@dataclasses.dataclass(frozen=True)
class Body:
    """Measures in meters unless said otherwise."""

    height: float
    leg: float  # hip joint over the ground, as a fraction of the height
    shoulder: float  # half the width between the shoulder joints
    hip: float  # half the width of the pelvis
    girth: float  # factor on every radius and depth
    head: float  # half the height of the head
    skin: Material


@dataclasses.dataclass(frozen=True)
class Hair:
    """Hair, or what covers it."""

    style: HairStyle
    material: Material
    hat: Material


@dataclasses.dataclass(frozen=True)
class Upper:
    """Shirt, jacket or coat.

    Attributes:
      fabric: ground and pattern.
      sleeve: how much of the arm is covered, from 0 (sleeveless) to 1 (to the wrist).
      hem: height of the lower edge, as a fraction of the person's height.
      looseness: meters that the garment stands off the body.
      hood: whether a hood lies on the back.
      inner: what shows between the two sides of an open jacket, None if it is closed.
    """

    fabric: Fabric
    sleeve: float
    hem: float
    looseness: float
    hood: bool
    inner: Material | None


@dataclasses.dataclass(frozen=True)
class Lower:
    """Trousers or skirt; `length` runs from 0 (hip) to 1 (ankle)."""

    fabric: Fabric
    skirt: bool
    length: float
    looseness: float


@dataclasses.dataclass(frozen=True)
class Shoes:
    """Shoes; `shaft` is how much of the shin a boot covers, from 0 to 1."""

    material: Material
    shaft: float


@dataclasses.dataclass(frozen=True)
class Bag:
    """A thing carried on the right (`side` -1) or left (1); `size` is a factor."""

    kind: BagKind
    side: int
    size: float
    body: Material
    strap: Material


@dataclasses.dataclass(frozen=True)
class Identity:
    """A person."""

    body: Body
    hair: Hair
    upper: Upper
    lower: Lower
    shoes: Shoes
    bag: Bag


def draw_identity(rng: Rng) -> Identity:
    """Draws a person; every property is independent of every other one."""
    return Identity(
        body=_body(rng),
        hair=_hair(rng),
        upper=_upper(rng),
        lower=_lower(rng),
        shoes=Shoes(
            material=dyed(rng, insulation=(0.55, 0.85)),
            shaft=_choose(rng, {0.0: 6, 0.45: 2, 0.9: 2}),
        ),
        bag=_bag(rng),
    )


def dyed(rng: Rng, insulation: tuple[float, float] = (0.2, 0.8)) -> Material:
    """Draws a material whose three appearances are independent of one another."""
    if rng.random() < 0.35:  # black, gray and white are what people wear most
        hue, saturation, value = 0.0, 0.0, rng.uniform(0.08, 0.95)
    else:
        hue = rng.random()
        saturation, value = rng.uniform(0.25, 0.8), rng.uniform(0.2, 0.85)
    red, green, blue = (c**2 for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return Material(
        color=(red, green, blue),
        near_infrared=float(rng.uniform(0.06, 0.85)),
        insulation=float(rng.uniform(*insulation)),
    )


def _body(rng: Rng) -> Body:
    # Skin is the exception: every tone is bright in the near-infrared, and hot.
    tone = rng.uniform(0.15, 1.0)
    skin = Material(
        color=(0.62 * tone + 0.05, 0.4 * tone + 0.02, 0.28 * tone + 0.01),
        near_infrared=float(rng.uniform(0.5, 0.65)),
        insulation=0.0,
    )
    height = float(np.clip(rng.normal(1.71, 0.1), 1.45, 2.0))
    return Body(
        height=height,
        leg=float(rng.uniform(0.475, 0.525)),
        shoulder=height * float(rng.uniform(0.092, 0.122)),
        hip=height * float(rng.uniform(0.082, 0.108)),
        girth=float(np.exp(rng.normal(0.0, 0.22))),
        head=height * float(rng.uniform(0.062, 0.072)),
        skin=skin,
    )


def _hair(rng: Rng) -> Hair:
    style: HairStyle = _choose(
        rng,
        {
            "bald": 2,
            "short": 4,
            "curly": 2,
            "bob": 3,
            "long": 3,
            "ponytail": 2,
            "bun": 2,
            "cap": 2,
            "beanie": 2,
        },
    )
    tone = rng.uniform(0.02, 0.45)
    material = Material(
        color=(tone, 0.65 * tone, 0.4 * tone),
        near_infrared=float(rng.uniform(0.08, 0.5)),
        insulation=float(rng.uniform(0.4, 0.65)),
    )
    return Hair(style=style, material=material, hat=dyed(rng))


def _fabric(rng: Rng, patterns: dict[PatternKind, int]) -> Fabric:
    ground = dyed(rng)
    return Fabric(
        ground=ground,
        print=_second_dye(rng, ground),
        pattern=_choose(rng, patterns),
        period=float(rng.uniform(0.09, 0.24)),
    )


def _second_dye(rng: Rng, ground: Material) -> Material:
    """A dye that the eye tells from the ground, and mostly the infrared camera too.

    The two choices are made apart: what looks alike in one light may differ in the
    other, and how a dye looks in one says nothing about the other.
    """
    colors = [dyed(rng).color for _ in range(4)]
    reflectances = [dyed(rng).near_infrared for _ in range(2)]
    return Material(
        color=max(colors, key=lambda c: abs(sum(c) - sum(ground.color))),
        near_infrared=max(reflectances, key=lambda r: abs(r - ground.near_infrared)),
        # A dye changes the light that a cloth reflects, not how warm it keeps.
        insulation=ground.insulation,
    )


def _upper(rng: Rng) -> Upper:
    fabric = _fabric(
        rng,
        {
            "plain": 4,
            "hoops": 3,
            "stripes": 3,
            "checks": 2,
            "dots": 2,
            "block": 3,
            "logo": 3,
        },
    )
    return Upper(
        fabric=fabric,
        sleeve=_choose(rng, {0.0: 1, 0.3: 3, 0.65: 1, 1.0: 5}),
        hem=_choose(rng, {0.58: 2, 0.49: 4, 0.41: 2, 0.29: 2}),
        looseness=float(rng.uniform(0.0, 0.045)),
        hood=bool(rng.random() < 0.2),
        inner=dyed(rng) if rng.random() < 0.3 else None,
    )


def _lower(rng: Rng) -> Lower:
    fabric = _fabric(
        rng, {"plain": 6, "hoops": 2, "stripes": 2, "checks": 2, "side_stripe": 3}
    )
    return Lower(
        fabric=fabric,
        skirt=bool(rng.random() < 0.3),
        length=_choose(rng, {0.32: 2, 0.52: 2, 0.75: 1, 0.97: 5}),
        looseness=float(rng.uniform(0.0, 0.05)),
    )


def _bag(rng: Rng) -> Bag:
    kind: BagKind = _choose(
        rng,
        {
            "none": 4,
            "backpack": 3,
            "handbag": 2,
            "messenger": 2,
            "tote": 2,
            "trolley": 2,
        },
    )
    return Bag(
        kind=kind,
        side=1 if rng.random() < 0.5 else -1,
        size=float(rng.uniform(0.75, 1.25)),
        body=dyed(rng, insulation=(0.85, 1.0)),
        strap=dyed(rng, insulation=(0.7, 1.0)),
    )


def _choose(rng: Rng, weights: dict[T, int]) -> T:
    """Draws one key of `weights` with probability proportional to its value."""
    keys = list(weights)
    heights = np.cumsum(list(weights.values()))
    return keys[int(np.searchsorted(heights, rng.random() * heights[-1], "right"))]
