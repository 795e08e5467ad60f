"""Where the joints are: a walking skeleton seen from some direction.

Coordinates of the body, in meters: x to its left, y up from the ground, z forward.
"""

import dataclasses
import math

import numpy as np

from mbn_jax.data.synthetic_vireid.config import Difficulty
from mbn_jax.data.synthetic_vireid.identity import Body, Identity

Point = np.ndarray  # (3,) float64: x, y, z


@dataclasses.dataclass(frozen=True)
class Pose:
    """One moment of a walk; angles in radians.

    Attributes:
      yaw: 0 facing the camera, π/2 facing the right edge of the image, π turned away.
      phase: position in the walking cycle, in [0, 2π).
      stride: largest forward swing of a thigh, 0 for a person who stands.
      arm_swing: largest forward swing of an upper arm.
      elbow: bend of the elbows.
      lean: forward lean of the trunk.
    """

    yaw: float
    phase: float
    stride: float
    arm_swing: float
    elbow: float
    lean: float


def draw_pose(rng: np.random.Generator, difficulty: Difficulty) -> Pose:
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

    def spine(self, height: float) -> Point:
        """The point of the trunk's axis `height` meters over the ground."""
        along = (height - self.pelvis[1]) / (self.neck[1] - self.pelvis[1])
        return (
            self.pelvis
            + max(along, 0.0) * (self.neck - self.pelvis)
            + (np.array([0.0, min(along, 0.0) * (self.neck[1] - self.pelvis[1]), 0.0]))
        )


def skeleton(identity: Identity, pose: Pose) -> Skeleton:
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
    return Skeleton(
        pelvis, neck, head, shoulders, elbows, hands, hips, knees, ankles, toes
    )


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
