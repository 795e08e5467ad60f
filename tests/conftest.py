"""JAX made strict: eight CPU devices, and no silent broadcasting between ranks."""

import os
import tempfile

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A program that several tests and their subprocesses use is compiled once.
_CACHE = tempfile.TemporaryDirectory(prefix="mbn_jax_compiled_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
jax.config.update("jax_compilation_cache_dir", _CACHE.name)


@pytest.fixture(scope="module")
def quick_compilation():
    """XLA optimizes little, which is quicker where programs run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def small_programs_are_compiled_once():
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def finished(data_dir, tmp_path_factory):
    """The work directory of a finished run, which tests only read, and its results."""
    # Most tests need none of what training imports.
    from mbn_jax.training.loop import train

    from .training.conftest import small_config

    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, train(small_config(data_dir), workdir)
