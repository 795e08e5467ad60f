r"""Features of a folder of pictures, from a trained model.

  python experiments/embed.py --workdir runs/quick --images my_pictures \
      --modality infrared --output features.npz

writes `features` (N, D) float32, rows of length one, and `name` (N,), the sorted paths
of the .jpg, .jpeg, .png and .bmp files below the folder. Pictures should be cropped to
one upright person. Two features are compared by their inner product.

With --gallery, the pictures are also looked for in a second folder, and a picture of
the ranked lists (query, then the ten most similar) is written:

  python experiments/embed.py --workdir runs/quick --images queries \
      --modality infrared --output features.npz \
      --gallery photos --gallery_modality visible --ranked_list ranked_list.png
"""

import sys

from absl import app, flags, logging

import mbn_jax
from mbn_jax.analysis import own_pictures
from mbn_jax.errors import InputError
from mbn_jax.training.config import parse_flags

_MODALITIES = {"visible": 0, "infrared": 1}

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory of the trained model.", required=True
)
_IMAGES = flags.DEFINE_string("images", None, "Folder of pictures.", required=True)
_MODALITY = flags.DEFINE_enum(
    "modality", None, list(_MODALITIES), "What --images holds.", required=True
)
_OUTPUT = flags.DEFINE_string("output", "features.npz", "Archive to write.")
_GALLERY = flags.DEFINE_string(
    "gallery", None, "Folder of pictures in which to look for those of --images."
)
_GALLERY_MODALITY = flags.DEFINE_enum(
    "gallery_modality", "visible", list(_MODALITIES), "What --gallery holds."
)
_RANKED_LIST = flags.DEFINE_string(
    "ranked_list", "ranked_list.png", "Picture to write; only with --gallery."
)


def main(argv: list[str]) -> None:
    """Embeds, and ranks if there is a gallery."""
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; folders follow --images=.")
    logging.set_verbosity(logging.WARNING)
    try:
        own_pictures.check_places([_IMAGES.value], [_OUTPUT.value])
        if _GALLERY.value:
            own_pictures.check_places([_GALLERY.value], [_RANKED_LIST.value])
        model, variables = mbn_jax.load(_WORKDIR.value)
        modality = _MODALITIES[_MODALITY.value]
        features, names = own_pictures.embed_pictures(
            model, variables, _IMAGES.value, modality, _OUTPUT.value
        )
        print(f"{_OUTPUT.value}: features {features.shape} of {len(names)} pictures")
        if _GALLERY.value:
            own_pictures.draw_gallery_search(
                model,
                variables,
                (_IMAGES.value, features, names),
                _GALLERY.value,
                _MODALITIES[_GALLERY_MODALITY.value],
                _RANKED_LIST.value,
            )
            print(f"{_RANKED_LIST.value}: the pictures most similar to each query")
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
