"""Most programs here are small, and many are compiled for two tests."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def programs_are_compiled_quickly_and_once():
    """The tests ask which layer computes; tests/norm asks how exactly it does."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
