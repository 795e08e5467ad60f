"""The configurations of the synthetic data: cameras, sizes, strengths, and names.

`nir`, `thermal` and `three` are the default sizes. Any other size has a name of its
own, and so a directory of its own:

    nir-395-99-96-x13        395 train, 99 val and 96 test identities, 13 images of
                             each in each camera
    thermal-206-16-206-x10-s3    206 train, 16 val and 206 test identities, 10 images
                                 of each in each camera, drawn with seed 3
"""

import dataclasses
import re
from typing import Literal

from mbn_jax.errors import InputError

Sensor = Literal["visible", "near_infrared", "thermal"]


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera: what it measures, where it stands, and how it renders."""

    number: int  # from 1, as in the folder names of the data set
    sensor: Sensor
    place: str  # the scene that it looks at; two cameras may share one
    height: int  # rows of a typical crop: near cameras give large crops
    elevation: float  # how far it looks down, degrees
    exposure: float = 1.0  # factor on the light before the tone curve
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gains of red, green, blue
    saturation: float = 1.0  # 0 gives gray images, 1 the colors as they are
    contrast: float = 1.0  # slope of the tone curve in its middle
    noise: float = 3.0  # standard deviation, in gray levels
    blur: float = 0.6  # standard deviation of the lens, in pixels of the crop


# After SYSU-MM01: 1, 2, 4, 5 see visible light, 3 and 6 the near-infrared; 1, 2 and 3
# are indoors, and 3 stands in the room of 2.
NIR_CAMERAS = (
    Camera(1, "visible", "hall", 144, 12, 1, (1.08, 1, 0.86), 0.9, 1.1, 3, 0.6),
    Camera(2, "visible", "room", 128, 18, 0.85, (0.94, 1.02, 1), 0.8, 0.9, 4, 0.7),
    Camera(3, "near_infrared", "room", 128, 16, 0.95, contrast=1.15, noise=4),
    Camera(4, "visible", "street", 112, 8, 1.15, (1, 1, 1.06), 1, 1.2, 2.5, 0.7),
    Camera(5, "visible", "garden", 96, 10, 1, (0.97, 1.04, 0.95), 1.1, 1, 3.5, 0.8),
    Camera(6, "near_infrared", "yard", 104, 10, noise=5.5, blur=0.8),
)

# After RegDB: a visible and a thermal camera side by side.
THERMAL_CAMERAS = (
    Camera(1, "visible", "campus", 128, 6, 1, (1.02, 1, 0.97), 0.9, 1, 3, 0.7),
    Camera(2, "thermal", "campus", 128, 6, noise=2.5, blur=1.2),
)

# Cameras 1 and 4 look at one street, by day and at night; 2 and 3 at one hall. No real
# data set is the model: the values are between those of the cameras above.
THREE_CAMERAS = (
    Camera(1, "visible", "street", 128, 8, 1.1, (1, 1, 1.06), 1, 1.15, 2.5, 0.7),
    Camera(2, "visible", "hall", 136, 14, 0.95, (1.08, 1, 0.86), 0.85, 1, 3.5, 0.6),
    Camera(3, "near_infrared", "hall", 128, 14, 0.95, contrast=1.1, noise=4),
    Camera(4, "thermal", "street", 120, 8, noise=2.5, blur=1.1),
)

_CAMERAS = {"nir": NIR_CAMERAS, "thermal": THERMAL_CAMERAS, "three": THREE_CAMERAS}


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The strength of each nuisance; 0 switches it off.

    No normalization method entered their choice: they were chosen so that a small
    network can learn the task in minutes and still has something left to learn.
    """

    yaw_degrees: float = 8.0  # deviation of the view from exactly front, side or back
    side_views: float = 0.3  # share of side views; the rest is half front, half back
    stride_degrees: float = 20.0  # largest swing of the thighs while walking
    standing: float = 0.25  # share of images in which the person stands still
    crop_scale: float = 0.03  # deviation of the logarithm of the detector's box height
    crop_shift: float = 0.015  # deviation of the box position, in box heights
    # 1 if the box is scaled to the person, so that stature is lost, 0 if it is scaled
    # for an average person at that place.
    crop_follows_person: float = 0.3
    occlusion: float = 0.06  # share of images with an object in front of the person
    exposure: float = 0.1  # deviation of the logarithm of the exposure
    color_cast: float = 0.03  # deviation of the logarithm of each color gain
    clutter: float = 0.5  # contrast of the background, 1 as the place was drawn
    light: float = 0.6  # strength of the directed light, from image to image
    noise: float = 0.5  # factor on the noise of the cameras
    blur: float = 0.7  # factor on the blur of the cameras


DEFAULT = Difficulty()


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
    """

    name: str
    kind: str
    train: int
    images: int
    val: int = 16
    test: int = 40
    seed: int = 0

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """The cameras of this kind of data set."""
        return _CAMERAS[self.kind]

    def modality_of(self, camera: Camera) -> str:
        """Returns the name of the modality of a camera.

        A near-infrared or a thermal camera is "infrared" where there are two
        modalities, and "nir" or "thermal" where there are three.
        """
        if camera.sensor == "visible":
            return "visible"
        if self.kind != "three":
            return "infrared"
        return "nir" if camera.sensor == "near_infrared" else "thermal"

    def identities(self, split: str) -> range:
        """The identity numbers of "train", "val" or "test"."""
        val = 1 + self.train
        test = val + self.val
        ends = {"train": (1, val), "val": (val, test), "test": (test, test + self.test)}
        return range(*ends[split])


DEFAULT_CONFIGS = (
    SyntheticConfig(name="nir", kind="nir", train=300, images=3),
    SyntheticConfig(name="thermal", kind="thermal", train=240, images=10),
    # Fewer identities than `nir`, so that a batch of 4 images of each identity and
    # modality repeats none, and the training set is not larger.
    SyntheticConfig(name="three", kind="three", train=225, images=4),
)
SIZED = re.compile(rf"({'|'.join(_CAMERAS)})-(\d+)-(\d+)-(\d+)-x(\d+)(?:-s(\d+))?")
_LARGEST = 9999  # identities and images have four digits in the names


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
            f"{', '.join(_CAMERAS)}, or a size such as nir-395-99-96-x13, which "
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
    )
