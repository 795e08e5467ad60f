"""What an installation brings, and what works where the extra `reid` is missing."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import mbn_jax
from mbn_jax.errors import SYSTEM

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAM = Path(__file__).with_name("first_circle.py")
COMMAND = "pip install 'mbn-jax[reid]', or in a clone with: pip install -e '.[reid]'"
# What neither jax nor flax imports cannot be imported any more.
BLOCKED = f"""
import sys
import jax, flax.linen, flax.nnx
for name in {SYSTEM}:
    sys.modules.setdefault(name, None)
"""

# What is installed; and what jax, flax and NumPy require, and that requires, and so on.
BROUGHT = f"""
from importlib.metadata import distributions, requires
from pip._vendor.packaging.requirements import Requirement
print(*[found.name for found in distributions()])
brought, new = set(), {{*{PROJECT["dependencies"]}}}
while new:
    brought |= new
    required = [
        (line, extra)
        for one in map(Requirement, brought)
        for extra in ["", *one.extras]
        for line in requires(one.name) or []
    ]
    new = {{
        line
        for line, extra in required
        for marker in [Requirement(line).marker]
        if not marker or marker.evaluate({{"extra": extra}})
    }} - brought
print(*[Requirement(line).name for line in brought])
"""


def names_of(requirements):
    """Distributions, spelled in one way."""
    names = {re.match(r"[\w.-]+", line)[0] for line in requirements}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


SYSTEM_NAMES = names_of(PROJECT["optional-dependencies"]["reid"])


def run_python(*arguments, python=sys.executable):
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, check=False
    )


def last_line(*arguments, python=sys.executable):
    result = run_python(*arguments, python=python)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stderr.splitlines()[-1]


def roots_of_imports(file):
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, file
            yield node.module.partition(".")[0]


@pytest.fixture(scope="module")
def loaded_files():
    """Files of the package that the layer loads, without the extra."""
    result = run_python(
        "-c", f"{BLOCKED}import runpy; runpy.run_path({str(PROGRAM)!r})"
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_the_package_itself_needs_jax_flax_and_numpy():
    assert names_of(PROJECT["dependencies"]) == {"flax", "jax", "jaxlib", "numpy"}


def test_the_packages_that_are_looked_for_are_those_of_the_extra():
    by_module = packages_distributions()
    for name in SYSTEM:
        assert names_of(by_module[name]) & SYSTEM_NAMES, name
    assert len(SYSTEM) == len(set(SYSTEM)) == len(SYSTEM_NAMES)


def test_the_pins_hold_every_requirement_of_the_package_and_of_the_extra():
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = names_of(line for line in pins if "==" in line)
    assert SYSTEM_NAMES | names_of(PROJECT["dependencies"]) <= pinned


def test_the_layer_computes_without_the_extra(loaded_files):
    loaded = {
        Path(file).relative_to(ROOT / "mbn_jax").parts[0] for file in loaded_files
    }
    assert {"norm.py", "nnx.py", "functional.py", "convert", "context.py"} <= loaded
    outer = {"analysis", "data", "deploy", "evaluation", "losses.py", "models"}
    assert not loaded & {*outer, "training"}


def test_the_files_of_the_layer_import_jax_flax_and_numpy_only(loaded_files):
    allowed = {"flax", "jax", "mbn_jax", "numpy"} | sys.stdlib_module_names
    for file in loaded_files:
        assert set(roots_of_imports(file)) <= allowed, file


NEEDS_THE_EXTRA = {
    "import mbn_jax; mbn_jax.load": "mbn_jax.load",
    "from mbn_jax import load": "mbn_jax.load",
    "from mbn_jax import embed": "mbn_jax.embed",
    "from mbn_jax import load_pretrained": "mbn_jax.load_pretrained",
    "from mbn_jax import save_pretrained": "mbn_jax.save_pretrained",
    "import mbn_jax.analysis.gap": "mbn_jax.analysis",
    "import mbn_jax.data.pipeline": "mbn_jax.data",
    "import mbn_jax.deploy.load": "mbn_jax.deploy",
    "import mbn_jax.training.loop": "mbn_jax.training",
}


def test_what_needs_the_extra_names_what_is_missing_and_the_command():
    code = f"""{BLOCKED}
for statement in {list(NEEDS_THE_EXTRA)}:
    try:
        exec(statement)
    except ModuleNotFoundError as error:
        print(error)
    else:
        print("nothing is missing")
"""
    result = run_python("-c", code)
    lines = result.stdout.splitlines()
    for name, line in zip(NEEDS_THE_EXTRA.values(), lines, strict=True):
        assert line.startswith(f"{name} needs packages that are not installed (")
        assert "array_record, cv2, dm_pix" in line
        assert line.endswith(COMMAND)


def test_one_missing_package_is_named_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    monkeypatch.delitem(vars(mbn_jax), "load", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"not installed \(grain\); install"):
        mbn_jax.load  # noqa: B018


def test_a_script_without_the_extra_says_how_to_install_it():
    script = ROOT / "experiments" / "train.py"
    line = last_line(
        "-c",
        f"{BLOCKED}import runpy; runpy.run_path({str(script)!r}, run_name='__main__')",
    )
    assert line.startswith("error: The command train needs packages that are not")
    assert line.endswith(COMMAND)


@pytest.mark.parametrize("missing", ["mbn_jax.models.weights", "zipfile"])
def test_another_missing_module_is_not_taken_for_the_extra(missing):
    code = f"import sys, mbn_jax; sys.modules[{missing!r}] = None; mbn_jax.load"
    line = last_line("-c", code)
    assert missing in line
    assert "pip install" not in line


def test_help_on_the_package_works_without_the_extra():
    result = run_python("-c", f"{BLOCKED}import mbn_jax; help(mbn_jax)")
    assert result.returncode == 0, result.stderr
    assert "class ModalityBatchNorm" in result.stdout


def test_every_public_name_is_listed_and_reachable():
    assert set(mbn_jax.__all__) <= set(dir(mbn_jax))
    for name in mbn_jax.__all__:
        assert getattr(mbn_jax, name) is not None


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the tree, in which a build may write."""
    folder = tmp_path_factory.mktemp("clone") / "mbn-jax"
    ignored = shutil.ignore_patterns(
        ".*", "*.egg-info", "__pycache__", "build", "dist", "runs"
    )
    # Data are ignored at the top only, mbn_jax/data is a package.
    shutil.copytree(
        ROOT,
        folder,
        ignore=lambda path, names: (
            {*ignored(path, names), "data"}
            if Path(path) == ROOT
            else ignored(path, names)
        ),
    )
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh virtual environment."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(clone, python, tmp_path):
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}"]
    subprocess.run([python, *build, "."], cwd=clone, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [name for name in names if name.endswith("/METADATA")]
        message = Parser().parsestr(archive.read(metadata).decode())
    info = metadata.partition("/")[0]
    held = {name for name in names if not name.startswith(f"{info}/")}
    package = ROOT / "mbn_jax"
    assert held == {
        str(file.relative_to(ROOT))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert "mbn_jax/py.typed" in held
    assert f"{info}/licenses/LICENSE" in names

    requirements = message.get_all("Requires-Dist")
    always = [line for line in requirements if ";" not in line]
    assert names_of(always) == names_of(PROJECT["dependencies"])
    reid = [line for line in requirements if re.search(r"extra == .reid.", line)]
    assert names_of(reid) == SYSTEM_NAMES
    assert set(message.get_all("Provides-Extra")) >= {
        "charts",
        "dev",
        "gpu",
        "reid",
        "tpu",
    }
    assert message["Requires-Python"] == PROJECT["requires-python"]


@pytest.mark.slow
def test_a_fresh_installation_computes_the_layer_and_brings_nothing_of_the_system(
    clone, python
):
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "."]
    subprocess.run([python, *install], cwd=clone, check=True)

    # Isolated: of PYTHONPATH, and of the folder that it runs in.
    listed = run_python("-I", "-c", BROUGHT, python=python)
    assert listed.returncode == 0, listed.stderr
    installed, brought = (names_of(line.split()) for line in listed.stdout.splitlines())
    assert installed == brought | {"mbn-jax"} | installed & {"pip", "setuptools"}
    assert {"grain", "opencv-python-headless", "tensorflow-datasets"}.isdisjoint(
        installed
    )

    passed = run_python("-I", PROGRAM, python=python)
    assert passed.returncode == 0, passed.stderr
    assert str(ROOT) not in passed.stdout
    line = last_line("-I", "-c", "import mbn_jax; mbn_jax.load", python=python)
    assert line.startswith("ModuleNotFoundError: mbn_jax.load needs packages")
    assert line.endswith(COMMAND)
