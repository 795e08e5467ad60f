"""Every test with an argument `kind` runs for the Linen and for the NNX layer."""

import pytest


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", ["linen", "nnx"])


@pytest.fixture(autouse=True, scope="module")
def half_of_the_programs_come_from_the_cache(small_programs_are_compiled_once):
    """Both layers trace to the same programs."""
