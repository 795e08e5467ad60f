"""`jax_debug_nans`: clean data raise nothing, and NaN is found where it arises."""

import threading
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import mbn_jax
import mbn_jax.nnx
from mbn_jax.models.resnet import ResNet

X = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
BOTH, ONE = np.array([0, 1, 1, 0]), np.array([1, 1, 1, 1])
SOME = np.array([True, False, True, True])
# Name: modality, mask, and the input.
CLEAN = {
    "both": (BOTH, None, X),
    "absent": (ONE, None, X),
    "masked": (BOTH, SOME, X),
    "all masked": (BOTH, ~(SOME | True), X),
    "constant": (BOTH, None, np.ones_like(X)),
    "far": (BOTH, None, X + np.float32(1e4)),
    "bfloat16": (BOTH, None, X.astype(jnp.bfloat16)),
}


@pytest.fixture(autouse=True)
def debug_nans():
    with jax.debug_nans(True):
        yield


class Linen:
    """A step is a gradient in training; `evaluate` is by the running statistics."""

    jit = staticmethod(jax.jit)

    def __init__(self, before=lambda x: x, after=lambda x: x, num_modalities=2):
        self.before, self.after = before, after
        self.layer = mbn_jax.ModalityBatchNorm(num_modalities=num_modalities)

    def __call__(self, variables, x, modality, mask, evaluating):
        x = self.before(x)
        return self.layer.apply(
            variables, x, modality, evaluating, mask, mutable=["batch_stats"]
        )

    def state(self, x, modality):
        return self.layer.init(jax.random.key(0), x, modality, True)

    def step(self, variables, x, modality, mask):
        def loss(params, x):
            y, updates = self({**variables, "params": params}, x, modality, mask, False)
            return (self.after(y) * jnp.arange(3.0)[None, None]).sum(), updates

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    def evaluate(self, variables, x, modality, mask):
        return self.after(self(variables, x, modality, mask, True)[0])


class ByModality(Linen):
    """A plain network inside the context; a mask of its rows has the input's rank."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.number, self.layer = self.layer.num_modalities, nn.BatchNorm()

    def __call__(self, variables, x, modality, mask, evaluating):
        mask = None if mask is None else mask[:, None, None]
        with mbn_jax.by_modality(modality, self.number):
            return self.layer.apply(
                variables,
                self.before(x),
                evaluating,
                mask=mask,
                mutable=["batch_stats"],
            )

    def state(self, x, modality):
        with mbn_jax.by_modality(modality, self.number):
            return self.layer.init(jax.random.key(0), x, True)


class Nnx(Linen):
    jit = staticmethod(nnx.jit)

    def state(self, x, modality):
        number = self.layer.num_modalities
        return mbn_jax.nnx.ModalityBatchNorm(
            x.shape[-1], num_modalities=number, rngs=nnx.Rngs(0)
        )

    def step(self, layer, x, modality, mask):
        def loss(layer, x):
            y = self.after(layer(self.before(x), modality, mask=mask))
            return (y * jnp.arange(3.0)[None, None]).sum()

        wrt = (nnx.DiffState(0, nnx.Param), 1)
        return nnx.value_and_grad(loss, argnums=wrt)(layer, x)

    def evaluate(self, layer, x, modality, mask):
        return self.after(layer(self.before(x), modality, True, mask=mask))


KINDS = [Linen, ByModality, Nnx]


@pytest.mark.parametrize(
    ("network_of", "compiled", "number"),
    [(kind, compiled, 2) for kind in KINDS for compiled in (False, True)]
    + [(Linen, True, 5)],
)
def test_clean_data_raise_nothing(network_of, compiled, number):
    network = network_of(num_modalities=number)
    wrap = network.jit if compiled else lambda function: function
    step, evaluate = wrap(network.step), wrap(network.evaluate)
    for modality, mask, x in CLEAN.values():
        state, x = network.state(jnp.asarray(x), modality), jnp.asarray(x)
        results = step(state, x, modality, mask), evaluate(state, x, modality, mask)
        for result in jax.tree.leaves(results):
            assert np.isfinite(np.asarray(result, np.float32)).all()


@pytest.mark.parametrize("network_of", KINDS)
def test_clean_data_raise_nothing_with_jit_disabled(network_of):
    network = network_of()
    for modality, mask, x in CLEAN.values():
        state, x = network.state(jnp.asarray(x), modality), jnp.asarray(x)
        with jax.disable_jit():
            results = (
                network.step(state, x, modality, mask),
                network.evaluate(state, x, modality, mask),
            )
        for result in jax.tree.leaves(results):
            assert np.isfinite(np.asarray(result, np.float32)).all()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("network_of", KINDS)
def test_a_modality_outside_the_range_is_an_error(network_of, compiled):
    network = network_of()
    wrap = network.jit if compiled else lambda function: function
    x = jnp.asarray(X)
    state = network.state(x, BOTH)
    for function in (network.step, network.evaluate):
        run = wrap(function)
        run(state, x, BOTH, None)
        with pytest.raises(FloatingPointError):
            run(state, x, BOTH + 1, None)
        with jax.debug_nans(False):
            y = network.evaluate(state, x, BOTH + 1, None)
    assert np.isnan(y).all((1, 2)).tolist() == [False, True, True, False]


def their_logarithm(x):
    return jnp.log(x - 1e6)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("network_of", KINDS)
def test_the_line_of_the_user_is_named_and_none_of_the_layer(
    network_of, compiled, place
):
    network = network_of(**{place: their_logarithm})
    state, x = network.state(jnp.asarray(X), BOTH), jnp.asarray(X)
    for function in (network.step, network.evaluate):
        run = network.jit(function) if compiled else function
        with pytest.raises(FloatingPointError, match="encountered in log") as error:
            run(state, x, BOTH, None)
        frames = traceback.extract_tb(error.tb)
        names = [frame.name for frame in frames if "jax/_src" not in frame.filename]
        assert names[-1] == "their_logarithm"


@pytest.mark.parametrize("network_of", KINDS)
def test_jax_goes_on_looking_after_the_layer(network_of):
    """With the flag of a whole program, and in a new thread.

    JAX forgets such a flag in a thread in which an operation was once left out.
    """
    found = []

    def run():
        network, x = network_of(), jnp.asarray(X)
        state = network.state(x, BOTH)
        network.step(state, x, BOTH, None)
        network.evaluate(state, x, BOTH, None)
        compiled = jax.jit(lambda x: jnp.log(x) * 2)
        compiled(jnp.ones(3))  # now JAX calls the program without Python
        try:
            compiled(-jnp.ones(3))
        except FloatingPointError:
            found.append(True)

    jax.config.update("jax_debug_nans", True)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        jax.config.update("jax_debug_nans", False)
    assert found == [True]


@pytest.mark.slow
@pytest.mark.parametrize("modality", [BOTH, ONE], ids=["both", "absent"])
def test_a_residual_network_raises_nothing(modality):
    model = ResNet(depth=18, width=1 / 16)
    x = jax.random.normal(jax.random.key(1), (4, 32, 16, 3))
    init = jax.jit(lambda key: model.init(key, x, modality, train=False))
    variables = init(jax.random.key(0))

    def loss(params):
        y, _ = model.apply(
            {**variables, "params": params}, x, modality, train=True, mutable=True
        )
        return (y**2).sum()

    for step in (jax.jit(jax.value_and_grad(loss)), jax.value_and_grad(loss)):
        for leaf in jax.tree.leaves(step(variables["params"])):
            assert np.isfinite(leaf).all()
    assert np.isfinite(model.apply(variables, x, modality, train=False)).all()
