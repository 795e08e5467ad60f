"""The configurations of the data set: cameras, sizes, strengths, and names.

`nir`, `thermal` and `three` are the default sizes. Any other size has a name of its
own, and so a directory of its own:

    nir-395-99-96-x13        395 train, 99 val and 96 test identities, 13 images of
                             each in each camera
    thermal-206-16-206-x10-s3    206 train, 16 val and 206 test identities, 10 images
                                 of each in each camera, drawn with seed 3
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from mbn_jax import modalities
from mbn_jax.errors import InputError

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


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The strength of each nuisance; 0 switches it off.

    None of them knows of a normalization method: they were chosen so that a small
    network can learn the task in minutes and still has something left to learn.

    Attributes:
      yaw_degrees: standard deviation of the view about exactly front, side or back.
      side_views: fraction of images in side view; the rest is half front, half back.
      stride_degrees: largest swing of the thighs while walking.
      standing: fraction of images in which the person stands still.
      crop_scale: standard deviation of the logarithm of the detector's box height.
      crop_shift: standard deviation of the box position, in box heights.
      crop_follows_person: 1 if the box is scaled to the person, so that stature is
        lost, 0 if it is scaled for an average person at that place.
      occlusion: fraction of images with an object in front of the person.
      exposure: standard deviation of the logarithm of the exposure.
      color_cast: standard deviation of the logarithm of each color gain.
      clutter: contrast of the background, 1 as the place was drawn.
      light: strength of the directed light, from image to image.
      noise: factor on the noise of the cameras.
      blur: factor on the blur of the cameras.
    """

    yaw_degrees: float = 8.0
    side_views: float = 0.3
    stride_degrees: float = 20.0
    standing: float = 0.25
    crop_scale: float = 0.03
    crop_shift: float = 0.015
    crop_follows_person: float = 0.3
    occlusion: float = 0.06
    exposure: float = 0.1
    color_cast: float = 0.03
    clutter: float = 0.5
    light: float = 0.6
    noise: float = 0.5
    blur: float = 0.7


DEFAULT = Difficulty()


@dataclasses.dataclass(frozen=True)
class _Kind:
    cameras: tuple[Camera, ...]
    modality_names: Mapping[Sensor, str]


_INFRARED: dict[Sensor, str] = {
    "visible": "visible",
    "near_infrared": "infrared",
    "thermal": "infrared",
}
_THREE: dict[Sensor, str] = {
    "visible": "visible",
    "near_infrared": "nir",
    "thermal": "thermal",
}
_KINDS = {
    "nir": _Kind(NIR_CAMERAS, _INFRARED),
    "thermal": _Kind(THERMAL_CAMERAS, _INFRARED),
    "three": _Kind(THREE_CAMERAS, _THREE),
}
SIZED = re.compile(rf"({'|'.join(_KINDS)})-(\d+)-(\d+)-(\d+)-x(\d+)(?:-s(\d+))?")
_LARGEST = 9999  # identities and images have four digits in the names


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How many people are seen how often, and by which cameras.

    Attributes:
      name: what comes after "synthetic_vireid/".
      kind: "nir" after SYSU-MM01, "thermal" after RegDB, or "three" for three
        modalities of the same people.
      train: number of training identities; they are numbered from 1.
      val: number of validation identities, which follow.
      test: number of test identities, which come last.
      images: images of each identity in each camera.
      seed: another seed gives other people in other places.
      description: one sentence.
    """

    name: str
    kind: str = "nir"
    train: int = 300
    val: int = 16
    test: int = 40
    images: int = 3
    seed: int = 0
    description: str = ""

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """The cameras of this kind of data set."""
        return _KINDS[self.kind].cameras

    def modality_of(self, camera: Camera) -> str:
        """Returns the name of the modality of a camera.

        A near-infrared or a thermal camera is "infrared" where there are two
        modalities, and "nir" or "thermal" where there are three.
        """
        return _KINDS[self.kind].modality_names[camera.sensor]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities by index."""
        return modalities.ordered(map(self.modality_of, self.cameras))

    def identities(self, split: str) -> range:
        """The identity numbers of "train", "val" or "test"."""
        ends = [1, self.train, self.val, self.test]
        position = ["train", "val", "test"].index(split)
        start = sum(ends[: position + 1])
        return range(start, start + ends[position + 1])

    @property
    def num_images(self) -> int:
        """Images of all splits together."""
        identities = self.train + self.val + self.test
        return identities * len(self.cameras) * self.images


DEFAULT_CONFIGS = (
    SyntheticConfig(
        name="nir",
        kind="nir",
        train=300,
        images=3,
        description="Four visible and two near-infrared cameras, after SYSU-MM01.",
    ),
    SyntheticConfig(
        name="thermal",
        kind="thermal",
        train=240,
        images=10,
        description="One visible and one thermal camera, after RegDB.",
    ),
    # Fewer identities than `nir`, so that a batch of 4 images of each identity and
    # modality repeats none, and the training set is not larger.
    SyntheticConfig(
        name="three",
        kind="three",
        train=225,
        images=4,
        description="Two visible, one near-infrared and one thermal camera.",
    ),
)


def config_from_name(name: str) -> SyntheticConfig:
    """Returns the configuration that a name stands for.

    Args:
      name: "nir", "thermal", "three", or a size such as "nir-395-99-96-x13" (see
        above).

    Raises:
      InputError: the name is of no known form, or a size is out of range.
    """
    for config in DEFAULT_CONFIGS:
        if name == config.name:
            return config
    match = SIZED.fullmatch(name)
    if match is None:
        raise InputError(
            f"{name!r} is not a configuration of synthetic_vireid: use "
            f"{', '.join(_KINDS)}, or a size such as nir-395-99-96-x13, which "
            "gives the train, val and test identities and the images of each in each "
            "camera."
        )
    kind = match[1]
    train, val, test, images, seed = (int(digits or 0) for digits in match.groups()[1:])
    canonical = f"{kind}-{train}-{val}-{test}-x{images}" + (f"-s{seed}" if seed else "")
    if name != canonical:
        raise InputError(
            f"{name!r} names a size of synthetic_vireid in a roundabout way: write "
            f"{canonical!r}, so that equal data have equal directories."
        )
    if min(train, val, test, images) < 1:
        raise InputError(
            f"{name!r} asks for an empty part of synthetic_vireid: every number of "
            "identities and of images must be at least 1."
        )
    if max(train + val + test, images) > _LARGEST:
        raise InputError(
            f"{name!r} asks for too much of synthetic_vireid: at most {_LARGEST} "
            "identities in all and as many images of each in each camera."
        )
    return SyntheticConfig(
        name=name,
        kind=kind,
        train=train,
        val=val,
        test=test,
        images=images,
        seed=seed,
        description=f"{kind} with sizes of its own.",
    )
