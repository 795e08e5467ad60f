"""Most programs here are small, and many are compiled for two tests."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def small_programs_are_compiled_once_too():
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
