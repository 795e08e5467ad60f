"""Where the context holds, what it refuses, and that JAX reuses no trace of it."""

import doctest
import functools
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mbn_jax.context import by_modality, current_modality
from mbn_jax.norm import ModalityBatchNorm

from ..norm.reference import assert_close
from .small_networks import MODALITY, Compact, X, implicit, initialized

OTHER = np.array([0, 0, 1, 1], np.int32)


def normalized(x=X, layer=None):
    """The input, normalized by its batch in a layer without variables of its own."""
    layer = layer or nn.BatchNorm(False, use_scale=False, use_bias=False)
    # A new function, whose trace is in no cache, is quicker than one operation each.
    return jax.jit(lambda x: layer.init_with_output(jax.random.key(0), x)[0])(x)


def shapes(network, x):
    """Those of the variables that the network makes."""
    return jax.eval_shape(network.init, jax.random.key(0), x)


def by_hand(modality, x=X):
    """The same by NumPy; None: all samples are of one modality."""
    modality = np.zeros(len(x)) if modality is None else modality
    y = np.empty_like(x)
    for m in set(modality.tolist()):
        rows = x[modality == m]
        y[modality == m] = (rows - rows.mean((0, 1))) / np.sqrt(rows.var((0, 1)) + 1e-5)
    return y


def assert_by(modality, y):
    assert_close(y, by_hand(modality), atol=1e-4)


def assert_outside():
    assert current_modality() is None
    assert_by(None, normalized())


def test_outside_of_the_context_the_network_is_what_it_was():
    before = normalized()
    with by_modality(MODALITY):
        assert_by(MODALITY, normalized())
    assert_close(normalized(), before)
    assert_outside()


def test_the_inner_context_holds():
    with by_modality(MODALITY):
        with by_modality(OTHER):
            assert_by(OTHER, normalized())
            assert current_modality().tolist() == OTHER.tolist()
        assert_by(MODALITY, normalized())
    assert_outside()


def test_what_the_inner_context_leaves_out_is_plain():
    with by_modality(MODALITY), by_modality(OTHER, at=lambda path: False):
        assert_by(None, normalized())


def test_an_exception_leaves_no_context_behind():
    def fail():
        raise RuntimeError("of the network")

    with by_modality(MODALITY):
        with pytest.raises(RuntimeError, match="of the network"), by_modality(OTHER):
            fail()
        assert_by(MODALITY, normalized())
    with pytest.raises(ValueError, match="num_modalities"), by_modality(OTHER, 0):
        fail()
    assert_outside()


def test_at_chooses_layers_by_their_paths():
    paths = []

    def at(path):
        paths.append(path)
        return path == "inner/second"

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Compact(name="inner")(x)

    with by_modality(MODALITY, at=at):
        stats = shapes(Outer(), X)["batch_stats"]["inner"]
        assert stats["first"]["mean"].shape == (3,)
        assert stats["second"]["mean"].shape == (2, 3)
        normalized()
    assert set(paths) == {"inner/first", "inner/second", ""}


def test_threads_do_not_see_each_others_context():
    """Two threads enter, run and leave in turns, while a third stays outside."""
    turn = threading.Barrier(3, timeout=60)
    seen = {}

    def inside(name, modality, leaves_first):
        turn.wait()
        with by_modality(modality):
            turn.wait()
            seen[name, "both"] = normalized()
            turn.wait()
            if not leaves_first:
                turn.wait()
                seen[name, "alone"] = normalized()
        seen[name, "after"] = current_modality()
        if leaves_first:
            turn.wait()

    def outside():
        turn.wait()
        turn.wait()
        seen["outside"] = normalized()
        turn.wait()
        turn.wait()

    threads = [
        threading.Thread(target=inside, args=("a", MODALITY, True)),
        threading.Thread(target=inside, args=("b", OTHER, False)),
        threading.Thread(target=outside),
    ]
    with by_modality(1 - OTHER, at=lambda path: False):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_by(MODALITY, seen["a", "both"])
    assert_by(OTHER, seen["b", "both"])
    assert_by(OTHER, seen["b", "alone"])
    assert_by(None, seen["outside"])
    assert seen["a", "after"] is None
    assert seen["b", "after"] is None


# Functions whose traces JAX keeps by the identity of what they wrap.
def scanned(function):
    def body(carry, x):
        return carry, function(x)

    return lambda x: jax.lax.scan(body, 0.0, x[None])[1][0]


CACHED = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": scanned,
    "linearize": lambda function: lambda x: jax.linearize(function, x)[0],
    "jit of jit": lambda function: jax.jit(jax.jit(function)),
    "nn.jit": lambda function: functools.partial(
        normalized,
        layer=nn.jit(nn.BatchNorm)(False, use_scale=False, use_bias=False),
    ),
}


@pytest.mark.parametrize("kind", CACHED)
def test_a_cached_trace_of_another_modality_is_never_used(kind):
    function = CACHED[kind](lambda x: normalized(x))
    assert_by(None, function(X))
    for modality in (MODALITY, OTHER, MODALITY, jnp.asarray(OTHER)):
        with by_modality(modality):
            assert_by(modality, function(X))
        assert_by(None, function(X))


@pytest.mark.parametrize("kind", CACHED)
def test_a_traced_modality_leaks_into_no_cache(kind):
    inner = CACHED[kind](lambda x: normalized(x))

    def outer(x, modality):
        with by_modality(modality):
            first = inner(x)
        with by_modality(1 - modality):
            return first, inner(x)

    for traced in (jax.jit(outer), jax.jit(lambda *a: outer(*a))):
        for modality in (MODALITY, OTHER):
            for y in traced(X, modality):
                assert_by(modality, y)
    assert_by(None, inner(X))


def test_the_same_modality_again_does_not_compile_again():
    traces = []

    @jax.jit
    def function(x):
        traces.append(current_modality())
        return normalized(x)

    def at(path):
        return True

    settings = [{}, {"share_affine": False}, {"num_modalities": 3}, {"at": at}]
    settings += [{"unknown": "pooled"}, {"pooled_weights": jnp.array([1.0, 2.0])}]
    for attributes in settings:
        before = len(traces)
        for modality in (MODALITY, MODALITY.copy(), MODALITY.copy()):
            with by_modality(modality, **attributes):
                function(X)
        assert len(traces) == before + 1
    function(X)
    assert traces.pop() is None
    assert len(traces) == len(settings)


def test_inside_of_jit_a_modality_is_an_argument_like_any_other():
    traces = []

    @jax.jit
    def function(x, modality):
        traces.append(1)
        with by_modality(modality):
            return normalized(x)

    for modality in (MODALITY, OTHER, 1 - MODALITY):
        assert_by(modality, function(X, modality))
    assert traces == [1]


class Unhashable:
    """A choice of layers that changes between two contexts."""

    __hash__ = None
    answer = True

    def __call__(self, path):
        return self.answer


def test_a_choice_without_a_hash_is_asked_again():
    function, at = jax.jit(lambda x: normalized(x)), Unhashable()
    for at.answer in (True, False):
        with by_modality(MODALITY, at=at):
            assert_by(MODALITY if at.answer else None, function(X))


def test_an_array_written_to_later_changes_nothing():
    modality, function = MODALITY.copy(), jax.jit(lambda x: normalized(x))
    with by_modality(modality):
        modality[:] = OTHER
        assert_by(MODALITY, function(X))


def test_entering_makes_no_implicit_transfer():
    on_device, modality = jax.device_put(X), jax.device_put(MODALITY)
    function = jax.jit(lambda x: normalized(x))
    with jax.transfer_guard("disallow"), by_modality(modality):
        y = function(on_device)
    assert_by(MODALITY, y)


def test_a_context_serves_as_a_decorator():
    @by_modality(MODALITY)
    def function(x):
        return normalized(x)

    for _ in range(2):
        assert_by(MODALITY, function(X))
        assert_outside()


def refused(message, *arguments, **attributes):
    with (
        pytest.raises(ValueError, match=message),
        by_modality(*arguments, **attributes),
    ):
        pass
    assert current_modality() is None


def test_arguments_that_cannot_be_meant_are_refused_on_entry():
    refused(r"modality is float32\[4\], expected one integer", np.zeros(4, np.float32))
    refused(r"modality is bool\[2\]", jnp.array([True, False]))
    refused(r"modality is int64\[2, 1\]", np.array([[0], [1]]))
    refused(r"modality is int64\[\]", 1)
    refused(r"modality is \[0, \[1\]\], expected one integer", [0, [1]])
    for number in (0, -1, 1.5, "2", None):
        refused(f"num_modalities is {number!r}, expected an integer", MODALITY, number)
    refused("at is 'norm1', expected a function", MODALITY, at="norm1")
    refused("unknown is 'mean', expected", MODALITY, unknown="mean")
    for weights in ([1], [1, -1], [0, 0]):
        refused("The weights of the modal", MODALITY, pooled_weights=weights)


class Outer(nn.Module):
    """A layer at the path block/norm."""

    layer: type[nn.Module] = nn.BatchNorm
    repeats: int = 1
    axis: int | tuple[int, ...] = -1

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(block, x):
                return self.layer(False, axis=self.axis, name="norm")(x)

        return Block(name="block")(jnp.repeat(x, self.repeats, axis=0))


def test_an_input_without_one_row_per_modality_is_refused():
    with by_modality(MODALITY):
        with pytest.raises(
            ValueError,
            match=r"normalization block/norm has an input of 12 rows, of shape "
            r"\[12, 2, 3\], but modality has 4, .*: pass the modality of every row "
            r"\(jnp.repeat if a sample became 3 rows\), or leave the layer out with "
            r"at=lambda path: path != 'block/norm'\.",
        ):
            shapes(Outer(repeats=3), X)
        for rows in (X[:3], np.concatenate([X, X[:1]]), X[:0]):
            message = f"has an input of {len(rows)} rows.*: pass the .* row, or leave"
            with pytest.raises(ValueError, match=message):
                shapes(Outer(), rows)
    # What the message says to do.
    with by_modality(np.repeat(MODALITY, 3)):
        shapes(Outer(repeats=3), X)
    with by_modality(MODALITY, at=lambda path: path != "block/norm"):
        shapes(Outer(repeats=3), X)
    message = "modality has 0, expected one per row: pass"
    with by_modality(np.zeros(0, int)), pytest.raises(ValueError, match=message):
        shapes(Outer(), X)


@pytest.mark.parametrize("axis", [0, -3, 3, (1, 2), (0,), ()])
def test_channels_elsewhere_than_on_one_axis_behind_the_samples_are_refused(axis):
    message = r"block/norm has axis=.* of shape \[4, 2, 3\], expected one axis other t"
    with by_modality(MODALITY), pytest.raises(ValueError, match=message):
        shapes(Outer(axis=axis), X)


class OfItsOwn(nn.BatchNorm):
    @nn.compact
    def __call__(self, x, use_running_average=None, *, mask=None):
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        return x - mean.value[None, None]


@pytest.mark.parametrize("lift", [lambda layer: layer, nn.jit, nn.remat])
def test_a_subclass_that_normalizes_by_itself_is_refused(lift):
    network = Outer(lift(OfItsOwn))
    expected = network.init(jax.random.key(0), X)
    message = (
        "block/norm is a OfItsOwn, whose __call__ does not call .* leave the layer"
    )
    for _ in range(2):
        with by_modality(MODALITY), pytest.raises(ValueError, match=message):
            network.init(jax.random.key(0), X)
    with by_modality(MODALITY, at=lambda path: path != "block/norm"):
        assert_close(network.init(jax.random.key(0), X), expected)


class WithAChild(nn.BatchNorm):
    """Computes something of its own, of what another layer normalized."""

    @nn.compact
    def __call__(self, x):
        return 2 * nn.BatchNorm(False, name="child")(x)


def test_a_layer_inside_of_a_subclass_does_not_count_for_the_subclass():
    network = Outer(WithAChild)
    with (
        by_modality(MODALITY),
        pytest.raises(ValueError, match="block/norm is a WithAChild, whose __call__"),
    ):
        network.init(jax.random.key(0), X)


def test_contexts_that_end_in_another_order_leave_no_modality_behind():
    """Two tasks that take turns in one thread: Flax refuses it when they end."""
    seen = []

    def interleaved():
        first, second = by_modality(MODALITY), by_modality(1 - MODALITY)
        first.__enter__()
        second.__enter__()
        for context in (first, second):
            with pytest.raises(AssertionError):
                context.__exit__(None, None, None)
            seen.append(current_modality())

    thread = threading.Thread(target=interleaved)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(seen[0], 1 - MODALITY)
    assert seen[1] is None


def test_variables_of_the_plain_network_are_refused_by_path():
    variables = Compact().init(jax.random.key(0), X)
    message = (
        r"batch_stats/first/mean has shape \[3\], expected \[2, 3\].*from_batch_norm"
    )
    with pytest.raises(ValueError, match=message):
        implicit(Compact, variables, X, MODALITY)


def test_interceptors_of_others_see_the_layer():
    """Those around the context see the plain layer, and ours inside of it."""
    seen = []

    def watch(next_fun, args, kwargs, call):
        seen.append((type(call.module), "/".join(call.module.path)))
        return next_fun(*args, **kwargs)

    variables = initialized(Compact, X, MODALITY)
    with nn.intercept_methods(watch):
        implicit(Compact, variables, X, MODALITY)
    assert seen == [
        (Compact, ""),
        (nn.Dense, "dense"),
        (nn.BatchNorm, "first"),
        (ModalityBatchNorm, "first"),
        (nn.BatchNorm, "second"),
        (ModalityBatchNorm, "second"),
    ]


def test_the_example_of_the_docstring():
    # Collected by pytest, the module would take the name of the function in mbn_jax.
    module = sys.modules[by_modality.__module__]
    failures, examples = doctest.testmod(module, verbose=False)
    assert failures == 0 < examples


# `python -O` leaves out the assertions in which Flax removes interceptors.
OPTIMIZED = """
import jax, jax.numpy as jnp
from flax import linen as nn
from mbn_jax import ModalityBatchNorm, convert
from mbn_jax.analysis.gap import measure_gaps

class Network(nn.Module):
    @nn.compact
    def __call__(self, x, modality, train):
        x = nn.Dense(2)(x)
        return ModalityBatchNorm()(x, modality, use_running_average=not train)

assert False, "this is python -O"
network, x, modality = Network(), jnp.arange(8.0).reshape(4, 2), jnp.arange(4) % 2
variables = network.init(jax.random.key(0), x, modality, train=True)
train = lambda *a, **options: network.apply(*a, train=True, **options)
step = jax.jit(lambda v, x: train(v, x, modality, mutable=["batch_stats"])[0])
for _ in range(2):
    convert.estimate_statistics(train, variables, [(x, modality)])
    measure_gaps(network, variables, [(x, modality)], train=True)
    step(variables, x)
print("done")
"""


def test_gaps_and_estimation_leave_no_tracer_behind_without_assertions():
    done = subprocess.run(
        [sys.executable, "-O", "-c", OPTIMIZED], capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr
