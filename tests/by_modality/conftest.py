"""The tests here ask which layer computes; tests/norm asks how exactly it does."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def settings(small_programs_are_compiled_once, quick_compilation):
    pass
