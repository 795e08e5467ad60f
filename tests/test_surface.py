"""What is public: docs/api.md lists it all, and a change of either is seen here."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import mbn_jax

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()
MODULES = {
    "mbn_jax": mbn_jax,
    **{
        f"mbn_jax.{name}": getattr(mbn_jax, name)
        for name in mbn_jax.__all__
        if inspect.ismodule(getattr(mbn_jax, name))
    },
}


def public_names(module):
    """Names in `__all__`, or else the functions and classes that a module defines."""
    defined = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    ]
    return {name for name in getattr(module, "__all__", defined) if name[0] != "_"}


def listed_names(module):
    """The names in the first column of a module's table."""
    section = re.search(rf"^## `{module}`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return set(re.findall(r"^\| `(\w+)` \|", section[1], re.M)) if section else set()


@pytest.mark.parametrize("module", MODULES)
def test_the_page_lists_every_public_name_and_no_other(module):
    assert listed_names(module) == public_names(MODULES[module])


def test_every_module_on_the_page_exists():
    assert set(re.findall(r"^## `([\w.]+)`", PAGE, re.M)) <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_public_name_has_a_docstring_and_is_defined_in_a_public_module(module):
    for name in public_names(MODULES[module]):
        value = getattr(MODULES[module], name)
        assert value.__doc__, name
        home = value.__name__ if inspect.ismodule(value) else value.__module__
        assert home.startswith("mbn_jax"), (name, home)
        assert "._" not in home, (name, home)


def test_no_module_takes_a_private_name_of_another():
    taken = [
        (file.name, alias.name)
        for file in (ROOT / "mbn_jax").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("mbn_jax")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not taken
