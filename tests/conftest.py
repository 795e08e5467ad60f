"""JAX made strict: eight CPU devices, and no silent broadcasting between ranks."""

import os
import tempfile

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A program that several tests and their subprocesses use is compiled once.
_CACHE = tempfile.TemporaryDirectory(prefix="mbn_jax_compiled_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
