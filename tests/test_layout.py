"""The layout of the package: imports point inward only, and in no circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mbn_jax"
# Every file or folder of the package imports only what is above it.
ORDER = [
    # The layer: jax, flax and NumPy.
    *("errors", "arguments", "mesh", "reductions", "numerics", "functional"),
    *("norm", "context", "nnx_graph", "nnx", "convert"),
    # The parts.
    *("text", "files", "archive", "modalities", "pixels", "losses"),
    *("models", "evaluation"),
    # The system.
    *("data", "analysis", "training", "deploy", "commands", "__main__"),
]
# Nor does any of these import the other, since a user may have only one of them.
STRANGERS = [("models", "data"), ("evaluation", "models"), ("analysis", "data")]


def module_name(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def imports(name):
    """The modules of the package that a module imports, wherever in its code."""
    tree = ast.parse(MODULES[name].read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module.startswith("mbn_jax"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("mbn_jax"))


def room(name):
    return name.split(".")[1]


PAIRS = [
    (name, imported)
    for name in MODULES
    for imported in imports(name)
    if name != "mbn_jax" != imported
]


def test_every_file_and_folder_has_a_place():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"__init__", "__pycache__"} == set(ORDER)


def test_imports_point_inward():
    outward = [
        f"{name} imports {imported}"
        for name, imported in PAIRS
        if ORDER.index(room(imported)) > ORDER.index(room(name))
    ]
    assert not outward


@pytest.mark.parametrize("pair", STRANGERS, ids=" and ".join)
def test_rooms_that_do_not_know_each_other(pair):
    assert not [
        f"{name} imports {imported}"
        for name, imported in PAIRS
        if {room(name), room(imported)} == set(pair)
    ]


def test_no_circle_of_files():
    left = {name: {b for a, b in PAIRS if a == name} for name in MODULES}
    while leaves := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left
