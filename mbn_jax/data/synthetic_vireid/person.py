"""Who a person is (body, hair, garments and things carried), and how they walk.

Who a person is, is drawn once per identity and is the same in every image. What a
material looks like is drawn separately for each kind of sensor: neither the
near-infrared reflectance nor the insulation of a garment follows from its color, so
a black coat can be bright in one camera and a striped shirt plain in the other. What
every sensor sees is the shape: lengths of sleeves and hems, width of the cut, hair,
bags.

Coordinates of the body are in meters: x to its left, y up from the ground, z forward.
"""

import colorsys
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

from mbn_jax.data.synthetic_vireid.config import Difficulty

Rng = np.random.Generator
Point = np.ndarray  # (3,) float64: x, y, z
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
    """What the three kinds of sensor see of a surface."""

    color: tuple[float, float, float]  # linear RGB reflectance, each in [0, 1]
    near_infrared: float  # reflectance under the near-infrared lamp, in [0, 1]
    insulation: float  # 0 for a surface as warm as the skin, 1 for one as cool as air


@dataclasses.dataclass(frozen=True)
class Fabric:
    """A ground, and a pattern that a second dye prints on it."""

    ground: Material
    print: Material
    pattern: PatternKind
    period: float  # of the pattern, in meters


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
    """Shirt, jacket or coat."""

    fabric: Fabric
    sleeve: float  # how much of the arm is covered: 0 without sleeves, 1 to the wrist
    hem: float  # height of the lower edge, as a fraction of the person's height
    looseness: float  # meters that the garment stands off the body
    hood: bool  # whether a hood lies on the back
    inner: Material | None  # shows between the sides of an open jacket; None if closed


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
        upper=Upper(
            fabric=_fabric(rng, (4, 3, 3, 2, 2, 3, 3, 0)),
            sleeve=_choose(rng, (0.0, 0.3, 0.65, 1.0), (1, 3, 1, 5)),
            hem=_choose(rng, (0.58, 0.49, 0.41, 0.29), (2, 4, 2, 2)),
            looseness=rng.uniform(0.0, 0.045),
            hood=rng.random() < 0.2,
            inner=dyed(rng) if rng.random() < 0.3 else None,
        ),
        lower=Lower(
            fabric=_fabric(rng, (6, 2, 2, 2, 0, 0, 0, 3)),
            skirt=rng.random() < 0.3,
            length=_choose(rng, (0.32, 0.52, 0.75, 0.97), (2, 2, 1, 5)),
            looseness=rng.uniform(0.0, 0.05),
        ),
        shoes=Shoes(
            material=dyed(rng, insulation=(0.55, 0.85)),
            shaft=_choose(rng, (0.0, 0.45, 0.9), (6, 2, 2)),
        ),
        bag=Bag(
            kind=_choose(rng, get_args(BagKind), (4, 3, 2, 2, 2, 2)),
            side=1 if rng.random() < 0.5 else -1,
            size=rng.uniform(0.75, 1.25),
            body=dyed(rng, insulation=(0.85, 1.0)),
            strap=dyed(rng, insulation=(0.7, 1.0)),
        ),
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
        near_infrared=rng.uniform(0.06, 0.85),
        insulation=rng.uniform(*insulation),
    )


@dataclasses.dataclass(frozen=True)
class Pose:
    """One moment of a walk; angles in radians."""

    yaw: float  # 0 facing the camera, π/2 facing the right edge of the image
    phase: float  # position in the walking cycle, in [0, 2π)
    stride: float  # largest forward swing of a thigh, 0 for a person who stands
    arm_swing: float  # largest forward swing of an upper arm
    elbow: float  # bend of the elbows
    lean: float  # forward lean of the trunk


def draw_pose(rng: Rng, difficulty: Difficulty) -> Pose:
    """Draws the pose of one image."""
    side = difficulty.side_views / 2
    quarter = rng.choice(4, p=[0.5 - side, side, 0.5 - side, side])
    stands = rng.random() < difficulty.standing
    swing = 0.15 if stands else rng.uniform(0.6, 1.0)
    return Pose(
        yaw=quarter * math.pi / 2
        + math.radians(difficulty.yaw_degrees) * rng.standard_normal(),
        phase=rng.uniform(0, 2 * math.pi),
        stride=swing * math.radians(difficulty.stride_degrees),
        arm_swing=swing * math.radians(difficulty.stride_degrees) * 0.9,
        elbow=rng.uniform(0.1, 0.6),
        lean=rng.normal(0.04, 0.04),
    )


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """Joints; the pairs hold the right side (x < 0) first, then the left."""

    pelvis: Point
    neck: Point
    head: Point
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    hands: tuple[Point, Point]
    hips: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]
    toes: tuple[Point, Point]

    @classmethod
    def of(cls, identity: Identity, pose: Pose) -> "Skeleton":
        """Poses the body of a person; the lower foot stands on the ground."""
        body = identity.body
        legs = [_leg(body, pose, side) for side in (-1, 1)]
        lowest = min(ankle[1] for _, _, ankle, _ in legs)
        lift = np.array([0.0, 0.045 * body.height - lowest, 0.0])
        hips, knees, ankles, toes = (
            (right + lift, left + lift) for right, left in zip(*legs, strict=True)
        )

        pelvis = np.array([0.0, body.leg * body.height, 0.0]) + lift
        trunk = (0.84 - body.leg) * body.height
        axis = np.array([0.0, math.cos(pose.lean), math.sin(pose.lean)])
        neck = pelvis + trunk * axis
        head = neck + np.array([0.0, 0.16 * body.height - body.head, 0.012])
        arms = [_arm(identity, pose, neck, side) for side in (-1, 1)]
        shoulders, elbows, hands = zip(*arms, strict=True)
        return cls(
            pelvis, neck, head, shoulders, elbows, hands, hips, knees, ankles, toes
        )

    def spine(self, height: float) -> Point:
        """The point of the trunk's axis `height` meters over the ground."""
        axis = self.neck - self.pelvis
        along = (height - self.pelvis[1]) / axis[1]
        below = np.array([0.0, min(along, 0.0) * axis[1], 0.0])
        return self.pelvis + max(along, 0.0) * axis + below


def _body(rng: Rng) -> Body:
    # Skin is the exception: every tone is bright in the near-infrared, and hot.
    tone = rng.uniform(0.15, 1.0)
    skin = Material(
        color=(0.62 * tone + 0.05, 0.4 * tone + 0.02, 0.28 * tone + 0.01),
        near_infrared=rng.uniform(0.5, 0.65),
        insulation=0.0,
    )
    height = float(np.clip(rng.normal(1.71, 0.1), 1.45, 2.0))
    return Body(
        height=height,
        leg=rng.uniform(0.475, 0.525),
        shoulder=height * rng.uniform(0.092, 0.122),
        hip=height * rng.uniform(0.082, 0.108),
        girth=float(np.exp(rng.normal(0.0, 0.22))),
        head=height * rng.uniform(0.062, 0.072),
        skin=skin,
    )


def _hair(rng: Rng) -> Hair:
    style = _choose(rng, get_args(HairStyle), (2, 4, 2, 3, 3, 2, 2, 2, 2))
    tone = rng.uniform(0.02, 0.45)
    material = Material(
        color=(tone, 0.65 * tone, 0.4 * tone),
        near_infrared=rng.uniform(0.08, 0.5),
        insulation=rng.uniform(0.4, 0.65),
    )
    return Hair(style=style, material=material, hat=dyed(rng))


def _fabric(rng: Rng, weights: Sequence[int]) -> Fabric:
    """Draws a fabric; the weights are those of the patterns, in their order."""
    ground = dyed(rng)
    return Fabric(
        ground=ground,
        print=_second_dye(rng, ground),
        pattern=_choose(rng, get_args(PatternKind), weights),
        period=rng.uniform(0.09, 0.24),
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


def _choose(rng: Rng, values: Sequence[T], weights: Sequence[int]) -> T:
    """Draws one of the values with probability proportional to its weight."""
    heights = np.cumsum(weights)
    return values[int(np.searchsorted(heights, rng.random() * heights[-1], "right"))]


def _leg(body: Body, pose: Pose, side: int) -> tuple[Point, Point, Point, Point]:
    """Hip, knee, ankle and toe of one leg, the hip joint at its standing height."""
    thigh, shin = 0.52 * body.leg * body.height, 0.39 * body.leg * body.height
    swing = side * math.sin(pose.phase)
    forward = pose.stride * swing + 0.1 * pose.stride
    # The knee bends while the thigh comes forward from behind.
    bend = 1.6 * pose.stride * max(0.0, side * math.cos(pose.phase)) + 0.03
    hip = np.array([side * 0.52 * body.hip, body.leg * body.height, 0.0])
    knee = hip + thigh * _down(forward)
    ankle = knee + shin * _down(forward - bend)
    pitch = 0.25 * (forward - bend)
    toe = ankle + 0.12 * body.height * np.array(
        [0.12 * side, -0.22 + math.sin(pitch), 0.95]
    )
    return hip, knee, ankle, toe


def _arm(
    identity: Identity, pose: Pose, neck: Point, side: int
) -> tuple[Point, Point, Point]:
    """Shoulder, elbow and hand of one arm; an arm that holds a bag hardly swings."""
    body, bag = identity.body, identity.bag
    holds = bag.kind in ("handbag", "trolley") and bag.side == side
    swing = 0.15 if holds else 1.0
    forward = -side * math.sin(pose.phase) * pose.arm_swing * swing
    if bag.kind == "trolley" and holds:
        forward -= 0.35
    bend = 0.05 if holds else pose.elbow
    shoulder = neck + np.array([side * body.shoulder, -0.048 * body.height, 0.0])
    outward = np.array([side * (0.1 + 0.1 * (body.girth - 1)), 0.0, 0.0])
    elbow = shoulder + 0.175 * body.height * (_down(forward) + outward)
    hand = elbow + 0.17 * body.height * (_down(forward + bend) + 0.3 * outward)
    return shoulder, elbow, hand


def _down(forward: float) -> Point:
    """The unit vector that points down and swings forward by an angle."""
    return np.array([0.0, -math.cos(forward), math.sin(forward)])
