"""The forms of the re-identification network and of its backbone."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mbn_jax import convert
from mbn_jax.modalities import DEFAULT
from mbn_jax.models.layers import PLACES
from mbn_jax.models.reid import POOLINGS, ReID
from mbn_jax.models.resnet import STEMS, VARIANTS, ResNet, stem_name

from .test_resnet import THREE, count, quick_jit, shapes

IMAGES = np.random.default_rng(0).normal(size=(6, 32, 16, 3)).astype(np.float32)
MODALITY = np.array([0, 1, 0, 1, 1, 0])
# One network with everything, and others with what cannot be had together with it.
EVERYTHING = dict(
    variant="se_resnet",
    stem="separate",
    non_local=(0, 1, 2, 0),
    pooling="learned_gem",
    neck_bias=True,
    mbn_at=("stage2", "neck"),
)
FORMS = {
    "everything": EVERYTHING,
    "ibn": dict(variant="resnet_ibn_a"),
}
TO_FOLD = {**FORMS, "three modalities": dict(stem="separate", modalities=THREE)}


def small(**fields):
    return ReID(5, image_size=(32, 16), depth=18, width=1 / 16, **fields)


@cache
def abstract_variables(model):
    init = partial(model.init, train=True)
    return jax.eval_shape(init, jax.random.key(0), IMAGES, MODALITY)


def filled(model, seed=0):
    """Random variables of a network, its variances positive."""
    tree = abstract_variables(model)
    rng = np.random.default_rng(seed)
    flat = {
        path: np.float32(
            rng.uniform(0.5, 1.5, leaf.shape)
            if path[-1] in ("var", "scale", "power")
            else rng.normal(size=leaf.shape) / max(1, leaf.size / leaf.shape[-1]) ** 0.5
        )
        for path, leaf in flatten_dict(tree).items()
    }
    return unflatten_dict(flat)


@cache
def jitted(model):
    return quick_jit(partial(model.apply, train=False))


def evaluate(model, variables, modality=MODALITY):
    return jitted(model)(variables, IMAGES, modality)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    # timm's documentation gives 28,088,024 for seresnet50; IBN-a has those of a ResNet.
    [("se_resnet", 28_088_024), ("resnet_ibn_a", 25_557_032)],
)
def test_a_variant_has_as_many_parameters_as_it_is_known_for(variant, parameters):
    _, variables = shapes(ResNet(depth=50, variant=variant))
    assert count(variables["params"]) == parameters - 2_049_000


@pytest.mark.parametrize("form", FORMS)
def test_a_step_of_every_form_is_finite_and_reaches_every_parameter(form):
    model = small(**FORMS[form])
    variables = filled(model)

    def loss(params):
        output, updates = model.apply(
            {**variables, "params": params},
            IMAGES,
            MODALITY,
            train=True,
            mutable=["batch_stats"],
        )
        return (output.logits**2).sum() + output.pooled.sum(), updates

    gradients, updates = quick_jit(jax.grad(loss, has_aux=True))(variables["params"])
    reached, kinds = set(), set()
    for path, gradient in flatten_dict(gradients).items():
        assert np.all(np.isfinite(gradient)), path
        # In a network so narrow some rectified units of a block may all be at rest.
        kinds.add(path[-3:][1:])
        if np.any(gradient != 0):
            reached.add(path[-3:][1:])
    assert reached == kinds
    before = flatten_dict(variables["batch_stats"])
    for path, after in flatten_dict(updates["batch_stats"]).items():
        assert np.any(after != before[path]), path


def test_rematerialization_knows_every_form():
    plain, remat = (small(**EVERYTHING, remat=remat) for remat in (False, True))
    variables = filled(plain)
    for a, b in zip(
        evaluate(plain, variables), evaluate(remat, variables), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "modality"),
    [*itertools.product(FORMS, (0, 1)), ("three modalities", 2)],
)
def test_every_form_is_folded_to_the_same_outputs(form, modality):
    model = small(**TO_FOLD[form])
    inference = model.copy(norm="none")
    variables = filled(model)
    folded = convert.fold(variables, modality)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, filled(inference))
    all_alike = np.full_like(MODALITY, modality)
    expected = evaluate(model, variables, all_alike)
    for a, b in zip(evaluate(inference, folded, all_alike), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize(
    "places", [(), ("neck",), ("stem", "stage1"), PLACES[:-1], PLACES]
)
def test_mbn_is_where_it_is_said_to_be(places):
    tree = shapes(small(mbn_at=places), 32, 16)[1]["batch_stats"]
    for path, leaf in flatten_dict(tree).items():
        place = {"backbone": path[1][:6], "neck": "neck"}[path[0]]
        place = "stem" if place == "norm1" else place
        assert leaf.ndim == (2 if place in places else 1), path


@pytest.mark.parametrize("modalities", [DEFAULT, THREE])
def test_a_separate_stem_is_the_stem_of_the_image_s_modality(modalities):
    model = small(stem="separate", modalities=modalities)
    plain = small(modalities=modalities)
    variables = filled(model)
    of_images = np.arange(len(IMAGES)) % len(modalities)
    output = evaluate(model, variables, of_images)
    for modality, name in enumerate(modalities):
        flat = flatten_dict(variables)
        kernels = {
            n: flat.pop(("params", "backbone", stem_name(n), "kernel"))
            for n in modalities
        }
        flat["params", "backbone", "conv1", "kernel"] = kernels[name]
        for leaf in ("scale", "bias"):
            path = ("params", "backbone", "norm1", leaf)
            flat[path] = flat[path][modality]
        alone = evaluate(plain, unflatten_dict(flat), of_images)
        rows = modality == of_images
        np.testing.assert_allclose(
            output.embedding[rows], alone.embedding[rows], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("neck_bias", [True, False])
def test_the_neck_has_a_bias_if_so_wished(neck_bias):
    _, variables = shapes(small(neck_bias=neck_bias), 32, 16)
    assert ("bias" in variables["params"]["neck"]) == neck_bias


def test_a_stage_has_no_more_non_local_blocks_than_blocks():
    with pytest.raises(ValueError, match=r"non_local is \(0, 3, 0, 0\), expected no"):
        shapes(small(non_local=(0, 3, 0, 0)), 32, 16)


def test_forms_that_do_not_exist_are_refused():
    for name, allowed in (
        ("variant", VARIANTS),
        ("stem", STEMS),
        ("pooling", POOLINGS),
    ):
        with pytest.raises(ValueError, match=f"'other', expected one of {allowed[0]}"):
            shapes(small(**{name: "other"}), 32, 16)
