"""Modality batch normalization in float64 NumPy, one loop per modality."""

from typing import NamedTuple

import jax
import numpy as np


class Reference(NamedTuple):
    y: np.ndarray
    batch_stats: dict[str, np.ndarray]


class ReferenceGradient(NamedTuple):
    scale: np.ndarray
    bias: np.ndarray
    x: np.ndarray


def reference(
    x, modality, variables, mask=None, *, axis=-1, momentum=0.99, epsilon=1e-5
):
    """What a step of training gives: output and running statistics."""
    x = channels_last(x, axis)
    seen = expand(mask, x)
    scale, bias, running = tables(variables)
    y = np.empty_like(x)
    stats = {name: table.copy() for name, table in running.items()}
    for m in range(len(scale)):
        for c in range(x.shape[-1]):
            here = modality == m
            values = x[here, ..., c]
            counted = values[seen[here, ..., c]]
            mean, var = running["mean"][m, c], running["var"][m, c]
            if len(counted) > 0:
                mean, var = counted.mean(), counted.var()
                for name, new in (("mean", mean), ("var", var)):
                    old = running[name][m, c]
                    stats[name][m, c] = momentum * old + (1 - momentum) * new
            normalized = (values - mean) / np.sqrt(var + epsilon)
            y[here, ..., c] = scale[m, c] * normalized + bias[m, c]
    return Reference(np.moveaxis(y, -1, axis), stats)


def reference_gradient(x, modality, variables, g, mask=None, *, axis=-1, epsilon=1e-5):
    """The gradient in closed form, where `g` is the gradient by the output."""
    x, g = channels_last(x, axis), channels_last(g, axis)
    seen = expand(mask, x)
    scale, bias, running = tables(variables)
    by_scale, by_bias, by_x = (
        np.zeros_like(scale),
        np.zeros_like(bias),
        np.empty_like(x),
    )
    for m in range(len(scale)):
        for c in range(x.shape[-1]):
            here = modality == m
            values, gs, counted = x[here, ..., c], g[here, ..., c], seen[here, ..., c]
            n = counted.sum()
            mean, var = running["mean"][m, c], running["var"][m, c]
            if n > 0:
                mean, var = values[counted].mean(), values[counted].var()
            sigma = np.sqrt(var + epsilon)
            normalized = (values - mean) / sigma
            # What is masked does not move the mean and the variance.
            through_stats = np.zeros_like(values)
            if n > 0:
                by_mean, by_deviation = gs.sum() / n, (gs * normalized).sum() / n
                through_stats = counted * (by_mean + normalized * by_deviation)
            by_x[here, ..., c] = scale[m, c] / sigma * (gs - through_stats)
            by_scale[m, c] = (gs * normalized).sum()
            by_bias[m, c] = gs.sum()
    if variables["params"]["scale"].ndim == 1:
        by_scale, by_bias = by_scale.sum(0), by_bias.sum(0)
    return ReferenceGradient(by_scale, by_bias, np.moveaxis(by_x, -1, axis))


def channels_last(x, axis):
    return np.moveaxis(np.asarray(x, np.float64), axis, -1)


def expand(mask, x):
    """The mask of samples, or of positions in (B, …, 1), for every value of x."""
    mask = np.ones(len(x), bool) if mask is None else np.asarray(mask)
    if mask.ndim == 1:
        mask = mask.reshape(-1, *[1] * (x.ndim - 1))
    return np.broadcast_to(mask, x.shape)


def tables(variables):
    """Scale, bias and running statistics, each of shape (M, C)."""
    running = {
        name: np.asarray(table, np.float64)
        for name, table in variables["batch_stats"].items()
    }
    shape = running["mean"].shape
    params = variables.get("params", {})
    scale = np.broadcast_to(params.get("scale", np.ones(shape)), shape)
    bias = np.broadcast_to(params.get("bias", np.zeros(shape)), shape)
    return scale.astype(np.float64), bias.astype(np.float64), running


def assert_close(actual, expected, rtol=0.0, atol=0.0):
    """Two trees of arrays agree, leaf by leaf."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        actual,
        expected,
    )
