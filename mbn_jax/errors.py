"""The errors that a user can fix: wrong input, and packages that are not installed."""

from importlib.util import find_spec

# The import names of the requirements under `reid` in pyproject.toml.
SYSTEM = (
    "absl",
    "array_record",
    "cv2",
    "dm_pix",
    "flatbuffers",
    "grain",
    "huggingface_hub",
    "matplotlib",
    "ml_collections",
    "optax",
    "orbax",
    "rich",
    "safetensors",
    "scipy",
    "tensorboardX",
    "tensorflow_datasets",
)


class InputError(ValueError):
    """Something that the user gave is wrong: a file, a flag, a value, a data set.

    The message is one sentence that says what is wrong, where, what was expected and
    what to do. Commands print it without a traceback and exit with status 1.
    """


def missing_packages() -> list[str]:
    """Returns the packages of `SYSTEM` that are not installed; imports none."""
    return [name for name in SYSTEM if find_spec(name) is None]


def require_system(what: str) -> None:
    """Raises `ModuleNotFoundError` unless the packages of the extra `reid` are there.

    Args:
      what: the name that the user imported, for the message.
    """
    if missing := missing_packages():
        raise ModuleNotFoundError(
            f"{what} needs packages that are not installed ({', '.join(missing)}); "
            "install them with: pip install 'mbn-jax[reid]', or in a clone with: "
            "pip install -e '.[reid]'",
            name=missing[0],
        )
