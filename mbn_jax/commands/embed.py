r"""Extracts features from a folder of images, and searches a gallery with them.

  python -m mbn_jax embed --workdir=runs/quick --images=my_images --modality=infrared \
      --output=features.npz

This writes `features` (N, D) float32, rows of length one; `name` (N,), the sorted paths
of the JPEG, PNG, BMP, WebP and TIFF files below the folder; and `sixteen_bits`, the
scale by which images of 16 bits were read. Images should be cropped like those that the
model was trained on, for most models to one upright person. Two features are compared
by their inner product. --workdir, or --model, also takes shared weights and exported
models. --modality names one of the model's modalities.

With --gallery, the images are also searched for in a second folder, and an image of the
ranked lists (query, then the ten most similar) is written:

  python -m mbn_jax embed --workdir=runs/quick --images=queries --modality=infrared \
      --gallery=photos --ranked_list=found.png

An exported model is for one modality, so the gallery may need another one of the same
network; otherwise leave --gallery_model out:

  python -m mbn_jax embed --model=infrared.zip --images=queries --modality=infrared \
      --gallery=photos --gallery_model=visible.zip
"""

from absl import flags

from mbn_jax.commands import shared_flags
from mbn_jax.data.sixteen_bits import scales_by_modality
from mbn_jax.deploy import gallery_search
from mbn_jax.deploy.embed import EmbeddedFolder, Reading, embed_folder, find_images
from mbn_jax.deploy.load import choose_scales, trained_scales
from mbn_jax.errors import InputError

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Trained model: work directory, folder of weights, or exported file.",
    required=True,
)
flags.DEFINE_alias("model", "workdir")
_IMAGES = flags.DEFINE_string("images", None, "Folder of images.", required=True)
_MODALITY = flags.DEFINE_string("modality", None, "Of --images.", required=True)
_OUTPUT = flags.DEFINE_string("output", "features.npz", "Archive to write.")
_GALLERY = flags.DEFINE_string("gallery", None, "Folder of images that is searched.")
_GALLERY_MODALITY = flags.DEFINE_string("gallery_modality", "visible", "Of --gallery.")
_GALLERY_MODEL = flags.DEFINE_string(
    "gallery_model", None, "Exported model for --gallery; by default --model."
)
_RANKED_LIST = flags.DEFINE_string("ranked_list", "ranked_list.png", "Image to write.")
_SIXTEEN_BITS, _MAX_MEGAPIXELS = shared_flags.define_reading("Default: as in training.")


def main() -> None:
    """Embeds, and ranks if there is a gallery."""
    if _GALLERY_MODEL.value is not None and _GALLERY.value is None:
        raise InputError("--gallery_model needs --gallery: give both or neither.")
    sides = [(_IMAGES.value, _WORKDIR.value, _MODALITY.value, _OUTPUT.value)]
    if _GALLERY.value is not None:
        model = _GALLERY_MODEL.value
        model = _WORKDIR.value if model is None else model
        modality, output = _GALLERY_MODALITY.value, _RANKED_LIST.value
        sides.append((_GALLERY.value, model, modality, output))
    folders, models, modalities, outputs = zip(*sides, strict=True)
    # What cannot work is refused before any work.
    scales_by_modality(_SIXTEEN_BITS.value, modalities)
    for folder, output in zip(folders, outputs, strict=True):
        find_images(folder)
        gallery_search.check_output(output)
    networks = gallery_search.load_networks(zip(models, modalities, strict=True))
    trained = {
        name: trained_scales(model)[name]
        for name, (model, _) in zip(modalities, networks, strict=True)
    }
    scales = choose_scales(trained, _SIXTEEN_BITS.value, modalities)

    def embed(side: int) -> EmbeddedFolder:
        reading = Reading(scales[modalities[side]], _MAX_MEGAPIXELS.value)
        return embed_folder(*networks[side], folders[side], modalities[side], reading)

    query = embed(0)
    gallery_search.write_features(query, outputs[0])
    print(f"{outputs[0]}: features {query.features.shape} of {len(query.names)} images")
    if len(sides) == 2:
        gallery_search.draw_search(
            query, embed(1), networks[1][0].image_size, outputs[1]
        )
        print(f"{outputs[1]}: the images most similar to each query")
