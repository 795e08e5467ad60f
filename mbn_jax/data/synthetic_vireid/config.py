"""The configurations of the data set and the names that they go by.

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

from mbn_jax import modalities
from mbn_jax.data.synthetic_vireid.camera import (
    NIR_CAMERAS,
    THERMAL_CAMERAS,
    THREE_CAMERAS,
    Camera,
    Sensor,
)
from mbn_jax.errors import InputError


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
