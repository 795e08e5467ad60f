"""How hard the images are: every constant that makes one image unlike the next."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The strength of each nuisance; 0 switches it off.

    None of them knows of a normalisation method: they were chosen so that a small
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
      colour_cast: standard deviation of the logarithm of each colour gain.
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
    colour_cast: float = 0.03
    clutter: float = 0.5
    light: float = 0.6
    noise: float = 0.5
    blur: float = 0.7


DEFAULT = Difficulty()
