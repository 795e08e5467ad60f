"""The packages of the extra `reid`, and the error that names the missing ones."""

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


def missing_packages() -> list[str]:
    """Returns the packages of `SYSTEM` that are not installed; it imports none."""
    return [name for name in SYSTEM if find_spec(name) is None]


def require_system(what: str) -> None:
    """Checks that the packages of the extra `reid` are installed.

    Args:
      what: the name that the user imported, for the message.

    Raises:
      ModuleNotFoundError: if one is missing; the message says how to install them.
    """
    missing = missing_packages()
    if missing:
        raise ModuleNotFoundError(
            f"{what} needs packages that are not installed ({', '.join(missing)}); "
            "install them with: pip install 'mbn-jax[reid]', or in a clone with: "
            "pip install -e '.[reid]'",
            name=missing[0],
        )
