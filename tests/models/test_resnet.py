"""The backbones: torchvision's topology, and the modality in every normalization."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mbn_jax import InputError
from mbn_jax.models.layers import NORMS
from mbn_jax.models.reid import ReID
from mbn_jax.models.resnet import ResNet, stem_name
from mbn_jax.training.config import check, default_config

# Parameters of torchvision's networks without their classifier (its documentation gives
# 11,689,512 / 21,797,672 / 25,557,032 / 44,549,160 / 60,192,808 with it).
TORCHVISION = {
    18: 11_689_512 - 513_000,
    34: 21_797_672 - 513_000,
    50: 25_557_032 - 2_049_000,
    101: 44_549_160 - 2_049_000,
    152: 60_192_808 - 2_049_000,
}


THREE = ("visible", "nir", "cam/1")
# Machine code that is not optimized is compiled faster, and serves these sizes.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def shapes(model, height=64, width=32):
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    modality = jax.ShapeDtypeStruct((2,), jnp.int32)

    def run(key, images, modality):
        return model.init_with_output(key, images, modality, train=True)

    return jax.eval_shape(run, jax.random.key(0), images, modality)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("depth", "norm"),
    [*((depth, "mbn") for depth in TORCHVISION), (18, "bn"), (50, "bn")],
)
def test_parameters_are_as_many_as_torchvisions(depth, norm):
    _, variables = shapes(ResNet(depth=depth, norm=norm))
    assert count(variables["params"]) == TORCHVISION[depth]


@pytest.mark.parametrize(("last_stride", "size"), [(1, (18, 9)), (2, (9, 5))])
def test_last_stride_sets_the_size_of_the_feature_map(last_stride, size):
    output, _ = shapes(ResNet(depth=50, last_stride=last_stride), 288, 144)
    assert output.shape == (2, *size, 2048)


def test_width_scales_every_number_of_features():
    output, _ = shapes(ResNet(depth=18, width=0.25))
    assert output.shape[-1] == 128


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    _, variables = shapes(ResNet(depth=50))
    jaxpr = jax.make_jaxpr(
        lambda v, x: ResNet(depth=50).apply(v, x, jnp.zeros(2, int), train=False)
    )(variables, jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32))
    strided = [
        (equation.invars[1].aval.shape[:2], equation.invars[1].aval.shape[2:])
        for equation in jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated"
        and equation.params["window_strides"] == (2, 2)
    ]
    in_blocks = [(size, io) for size, io in strided[1:] if io[0] == io[1]]
    assert [size for size, _ in in_blocks] == [(3, 3)] * 2  # last stride is 1
    assert strided[0][0] == (7, 7)


def test_both_norms_have_trees_of_the_same_names():
    trees = {norm: shapes(ReID(10, norm=norm))[1] for norm in ("mbn", "bn")}
    names = {norm: sorted(flatten_dict(tree)) for norm, tree in trees.items()}
    assert names["mbn"] == names["bn"]
    statistics = flatten_dict(trees["mbn"]["batch_stats"])
    assert {leaf.shape[0] for leaf in statistics.values()} == {2}


def test_every_normalization_has_a_row_for_each_modality():
    for modalities in (("thermal",), THREE):
        model = ReID(10, depth=18, variant="resnet_ibn_a", modalities=modalities)
        statistics = flatten_dict(shapes(model)[1]["batch_stats"])
        rows = {leaf.shape[0] for leaf in statistics.values() if leaf.ndim == 2}
        assert rows == {len(modalities)}
        assert all(leaf.ndim == 2 for leaf in statistics.values())


def test_separate_stems_are_called_after_the_modalities():
    for modalities, names in (
        (("visible", "infrared"), {"conv1_visible", "conv1_infrared"}),
        (THREE, {"conv1_visible", "conv1_nir", "conv1_cam%2F1"}),
    ):
        model = ResNet(depth=18, stem="separate", modalities=modalities)
        params = shapes(model)[1]["params"]
        assert {name for name in params if name.startswith("conv1")} == names
        assert params["norm1"]["scale"].shape == (len(modalities), 64)


def test_different_modalities_have_different_stem_names_that_files_can_hold():
    names = ["a/b", "a.b", "a b", "a%2Fb", "a_b", "a-b", "ab", "é", "%C3%A9", "A/B"]
    stems = [stem_name(name) for name in names]
    assert len(set(stems)) == len(names)
    assert not set("/. ") & set("".join(stems))


@pytest.mark.parametrize("modalities", [(), ("nir", "nir"), ("nir", 1), ("",), "nir"])
def test_modalities_that_are_not_distinct_names_are_refused(modalities):
    with pytest.raises(ValueError, match=r"modalities is .* each once"):
        shapes(ResNet(depth=18, modalities=modalities))


def test_without_normalizations_every_convolution_has_a_bias_and_the_neck_stays():
    """The trees that `convert.fold` makes."""
    for depth in (18, 50):
        none, bn = (shapes(ReID(10, depth=depth, norm=n))[1] for n in ("none", "bn"))
        assert none["batch_stats"] == {"neck": bn["batch_stats"]["neck"]}
        folded, plain = (
            flatten_dict(tree["params"]["backbone"]) for tree in (none, bn)
        )
        kernels = {path for path in plain if path[-1] == "kernel"}
        biases = {(*path[:-1], "bias") for path in kernels}
        assert folded.keys() == kernels | biases
        assert all(folded[path] == plain[path] for path in kernels)


def test_a_network_without_normalizations_is_not_to_be_trained():
    config = default_config()
    for norm in NORMS:
        config.model.norm = norm
        check(config)
    config.model.norm = "none"
    with pytest.raises(InputError, match=r"model\.norm is 'none', expected mbn or bn"):
        check(config)


def test_unknown_depth_and_norm_are_refused():
    with pytest.raises(ValueError, match="expected one of 18, 34, 50, 101, 152"):
        shapes(ResNet(depth=20))
    with pytest.raises(ValueError, match="expected one of mbn, bn, none"):
        shapes(ResNet(depth=18, norm="in"))


@pytest.fixture(scope="module")
def small():
    """A tiny network and a batch in which modality 1 is modality 0 seen differently."""
    model = ReID(5, image_size=(32, 16), depth=18, width=1 / 16)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 32, 16, 3)).astype(np.float32)
    modality = np.array([0, 1, 0, 1, 1, 0])
    init = quick_jit(lambda key: model.init(key, images, modality, train=True))
    return model, init(jax.random.key(0)), images, modality


def test_outputs_have_names_shapes_and_float32(small):
    model, variables, images, modality = small
    for dtype in (jnp.float32, jnp.bfloat16):
        typed = model.copy(dtype=dtype)
        output = jax.eval_shape(
            partial(typed.apply, train=False), variables, images, modality
        )
        assert output.pooled.shape == output.embedding.shape == (6, 32)
        assert output.logits.shape == (6, 5)
        assert {leaf.dtype for leaf in output} == {np.dtype(np.float32)}


def test_the_modality_reaches_every_normalization(small):
    model, variables, images, modality = small
    step = quick_jit(
        lambda v, m: model.apply(v, images, m, train=True, mutable=["batch_stats"])
    )
    _, mixed = step(variables, modality)
    _, all_visible = step(variables, np.zeros(6, int))
    before = flatten_dict(variables["batch_stats"])
    for name, after in flatten_dict(mixed["batch_stats"]).items():
        assert np.all(after[0] != before[name][0]), name
        assert np.all(after[1] != before[name][1]), name
    for name, after in flatten_dict(all_visible["batch_stats"]).items():
        np.testing.assert_array_equal(after[1], before[name][1])


def test_a_modality_is_not_affected_by_the_other_in_training(small):
    model, variables, images, modality = small
    step = quick_jit(
        lambda v, x: (
            model.apply(v, x, modality, train=True, mutable=["batch_stats"])[
                0
            ].embedding
        )
    )
    changed = np.where(modality[:, None, None, None] == 1, 10 * images + 3, images)
    visible = modality == 0
    np.testing.assert_allclose(
        step(variables, images)[visible],
        step(variables, changed)[visible],
        atol=1e-5,
    )
