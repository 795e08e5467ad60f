"""Every test with an argument `kind` runs for the Linen and for the NNX layer."""

import jax
import pytest


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ["linen", "nnx"])


@pytest.fixture(scope="package", autouse=True)
def small_programs_are_compiled_once_too():
    """Both layers trace to the same programs: half of them come from the cache."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
