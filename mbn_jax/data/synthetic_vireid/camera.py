"""The cameras of each configuration: where they stand and how they see."""

import dataclasses
from typing import Literal

Sensor = Literal["visible", "near_infrared", "thermal"]


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera.

    Attributes:
      number: from 1, as in the folder names of the data set.
      sensor: what it measures.
      place: the scene that it looks at; two cameras may share one.
      height: rows of a typical crop: near cameras give large crops.
      elevation: how far it looks down, degrees.
      exposure: factor on the light before the tone curve.
      cast: gains of red, green and blue.
      saturation: 0 gives gray images, 1 the colors as they are.
      contrast: slope of the tone curve in its middle.
      noise: standard deviation, in gray levels.
      blur: standard deviation of the lens, in pixels of the crop.
    """

    number: int
    sensor: Sensor
    place: str
    height: int
    elevation: float
    exposure: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    contrast: float = 1.0
    noise: float = 3.0
    blur: float = 0.6


# After SYSU-MM01: 1, 2, 4, 5 see visible light, 3 and 6 the near-infrared; 1, 2 and 3
# are indoors, and 3 stands in the room of 2.
NIR_CAMERAS = (
    Camera(1, "visible", "hall", 144, 12.0, 1.0, (1.08, 1.0, 0.86), 0.9, 1.1, 3.0, 0.6),
    Camera(
        2, "visible", "room", 128, 18.0, 0.85, (0.94, 1.02, 1.0), 0.8, 0.9, 4.0, 0.7
    ),
    Camera(3, "near_infrared", "room", 128, 16.0, 0.95, contrast=1.15, noise=4.0),
    Camera(
        4, "visible", "street", 112, 8.0, 1.15, (1.0, 1.0, 1.06), 1.0, 1.2, 2.5, 0.7
    ),
    Camera(
        5, "visible", "garden", 96, 10.0, 1.0, (0.97, 1.04, 0.95), 1.1, 1.0, 3.5, 0.8
    ),
    Camera(
        6, "near_infrared", "yard", 104, 10.0, 1.0, contrast=1.0, noise=5.5, blur=0.8
    ),
)

# After RegDB: a visible and a thermal camera side by side.
THERMAL_CAMERAS = (
    Camera(
        1, "visible", "campus", 128, 6.0, 1.0, (1.02, 1.0, 0.97), 0.9, 1.0, 3.0, 0.7
    ),
    Camera(2, "thermal", "campus", 128, 6.0, contrast=1.0, noise=2.5, blur=1.2),
)

# Cameras 1 and 4 look at one street, by day and at night; 2 and 3 at one hall. No real
# data set is the model: the values are between those of the cameras above.
THREE_CAMERAS = (
    Camera(
        1, "visible", "street", 128, 8.0, 1.1, (1.0, 1.0, 1.06), 1.0, 1.15, 2.5, 0.7
    ),
    Camera(
        2, "visible", "hall", 136, 14.0, 0.95, (1.08, 1.0, 0.86), 0.85, 1.0, 3.5, 0.6
    ),
    Camera(3, "near_infrared", "hall", 128, 14.0, 0.95, contrast=1.1, noise=4.0),
    Camera(4, "thermal", "street", 120, 8.0, contrast=1.0, noise=2.5, blur=1.1),
)
