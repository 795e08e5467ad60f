r"""Extracts features from a folder of images, and searches a gallery with them.

  python -m mbn_jax embed --workdir=runs/quick --images=my_images --modality=infrared \
      --output=features.npz

This writes `features` (N, D) float32, rows of length one, `name` (N,), the sorted paths
of the JPEG, PNG, BMP, WebP and TIFF files below the folder, and `sixteen_bits`, the
scale by which images of 16 bits were read. Images should be cropped as those that the
model was trained on, for most models to one upright person. Two features are compared
by their inner product. --workdir, or --model, also takes shared weights and exported
models. --modality names one of the model's modalities.

With --gallery, the images are also looked for in a second folder, and an image of the
ranked lists (query, then the ten most similar) is written:

  python -m mbn_jax embed --workdir=runs/quick --images=queries --modality=infrared \
      --gallery=photos --ranked_list=found.png

An exported model is for one modality, so that the gallery may need another, of the same
network; elsewhere leave --gallery_model out:

  python -m mbn_jax embed --model=infrared.zip --images=queries --modality=infrared \
      --gallery=photos --gallery_model=visible.zip
"""

from absl import flags, logging

from mbn_jax.data.images import MAX_HELP, MAX_MEGAPIXELS
from mbn_jax.data.sixteen_bits import FLAG, HELP, scales_by_modality
from mbn_jax.deploy import gallery_search
from mbn_jax.deploy.folder import Reading
from mbn_jax.deploy.loading import choose_scales, trained_scales
from mbn_jax.errors import InputError

_MODEL_HELP = "Trained model: work directory, folder of weights, or exported file."

flags.DEFINE_string("workdir", None, _MODEL_HELP, required=True)
flags.DEFINE_alias("model", "workdir")
flags.DEFINE_string("images", None, "Folder of images.", required=True)
flags.DEFINE_string("modality", None, "What --images holds.", required=True)
flags.DEFINE_string("output", "features.npz", "Archive to write.")
flags.DEFINE_string(
    "gallery", None, "Folder of images in which to look for those of --images."
)
flags.DEFINE_string("gallery_modality", "visible", "What --gallery holds.")
flags.DEFINE_string(
    "gallery_model", None, "Of --gallery, of the same network; by default --model."
)
flags.DEFINE_string("ranked_list", "ranked_list.png", "To write; only with --gallery.")
flags.DEFINE_multi_string(FLAG, [], f"{HELP} By default as in training.")
flags.DEFINE_float("max_megapixels", MAX_MEGAPIXELS, MAX_HELP, lower_bound=0)


def main() -> None:
    """Embeds, and ranks if there is a gallery."""
    logging.set_verbosity(logging.WARNING)
    given = flags.FLAGS
    if given.gallery_model is not None and given.gallery is None:
        raise InputError("--gallery_model has no --gallery: give it, or neither.")
    modalities = [given.modality]
    if given.gallery is not None:
        modalities.append(given.gallery_modality)
    scales_by_modality(given.sixteen_bits, modalities)  # refused before any work
    gallery_search.check_places([given.images], [given.output])
    needed = [(given.workdir, given.modality)]
    if given.gallery is not None:
        gallery_search.check_places([given.gallery], [given.ranked_list])
        gallery_model = given.gallery_model
        if gallery_model is None:
            gallery_model = given.workdir
        needed.append((gallery_model, given.gallery_modality))
    networks = gallery_search.load_networks(needed)
    trained = {
        name: trained_scales(model)[name]
        for name, (model, _) in zip(modalities, networks, strict=True)
    }
    scales = choose_scales(trained, given.sixteen_bits, modalities)
    readings = [Reading(scales[name], given.max_megapixels) for name in modalities]
    features, names = gallery_search.embed_pictures(
        *networks[0], given.images, given.modality, given.output, readings[0]
    )
    print(f"{given.output}: features {features.shape} of {len(names)} images")
    if given.gallery is not None:
        query = (given.images, features, names)
        gallery_search.draw_gallery_search(
            *networks[-1],
            query,
            given.gallery,
            given.gallery_modality,
            given.ranked_list,
            readings,
        )
        print(f"{given.ranked_list}: the images most similar to each query")
