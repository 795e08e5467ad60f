"""The candidates of `train_step.py`, each in a process of its own.

`turns.Worker` starts

    python -m benchmarks.step_candidates '{"batch": 16, "height": 288, ...}'

The argument contains the sizes, which name one of `NETWORKS`. It also has "config",
keys of our configuration that differ, and "augmented"; or "torch", the form of
PyTorch's step and what `peer_values` takes from our configuration.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks import turns


class Network(NamedTuple):
    """A network and its batch.

    Attributes:
      title: for the line above the tables.
      num_identities: the classifier's classes.
      num_images: of each identity and modality in a batch; there are two modalities.
      batch: images.
      height: pixels.
      width: pixels.
      steps: counted in a turn, for a turn of a few seconds at most.
      config: keys of our configuration that differ from the quick run's.
    """

    title: str
    num_identities: int
    num_images: int
    batch: int
    height: int
    width: int
    steps: int
    config: Mapping[str, Any]


NETWORKS = {
    "resnet50": Network(
        title="ResNet-50",
        num_identities=395,  # of SYSU-MM01's training set
        num_images=2,
        batch=64,
        height=288,
        width=144,
        steps=1,
        config={
            "augmentation.pad": 10,
            "augmentation.flip": 0.5,
            "augmentation.erase": 0.5,
            "augmentation.jitter": 0.5,
            "model.depth": 50,
            "model.width": 1.0,
            "model.last_stride": 1,
            "loss.label_smoothing": 0.1,
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 1e-3,
            "optimizer.weight_decay": 5e-4,
            "optimizer.schedule": "constant",
            "optimizer.warmup_steps": 0,
        },
    ),
    "quick": Network(
        title="the quick run's ResNet-18 of a quarter of the width",
        num_identities=300,  # of the synthetic near-infrared data
        num_images=2,
        batch=64,
        height=96,
        width=48,
        steps=10,
        config={},
    ),
}


def make_config(
    sizes: Mapping[str, Any], changes: Mapping[str, Any], augmented: bool = False
) -> Any:
    """Our configuration of the step.

    Args:
      sizes: "network", one of `NETWORKS`, "batch", "height", "width" and "dtype".
      changes: other values by key, such as "model.norm".
      augmented: whether the step has the network's augmentation, or none.
    """
    from mbn_jax.training.config import default_config

    config = default_config()
    network = NETWORKS[sizes["network"]]
    config.update_from_flattened_dict(dict(network.config))
    if not augmented:
        off = {key: type(value)(0) for key, value in config.augmentation.items()}
        config.augmentation.update(off)
    values = {
        "data.image_size": (sizes["height"], sizes["width"]),
        "batch.num_identities": sizes["batch"] // (2 * network.num_images),
        "batch.num_images": network.num_images,
        "model.dtype": sizes["dtype"],
        **changes,
    }
    config.update_from_flattened_dict(values)
    return config


def peer_values(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What PyTorch's step takes from our configuration, so that both are one network.

    Its process does not read the configuration, because that would import JAX and add
    to its memory.
    """
    config = make_config(sizes, {})
    model = {key: config.model[key] for key in ("depth", "width", "last_stride")}
    keys = ("name", "learning_rate", "momentum", "nesterov", "weight_decay")
    return {
        **model,
        "label_smoothing": config.loss.label_smoothing,
        "optimizer": {key: config.optimizer[key] for key in keys},
    }


def make_batch(sizes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Random pixels; every identity has as many images of each modality."""
    rows = np.arange(sizes["batch"], dtype=np.int32)
    shape = (sizes["batch"], sizes["height"], sizes["width"], 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    identity = rows // (2 * NETWORKS[sizes["network"]].num_images)
    modality = rows % 2
    return dict(image=pixels, identity=identity, modality=modality, camera=modality)


def our_step(
    sizes: Mapping[str, Any], changes: Mapping[str, Any], augmented: bool
) -> tuple[Callable[[], float], dict[str, Any]]:
    """The project's own step, with the state donated, on all devices that there are."""
    import jax

    from mbn_jax.mesh import make_mesh, shard
    from mbn_jax.training.state import init_state, make_model, make_optimizer
    from mbn_jax.training.step import make_train_step

    config = make_config(sizes, changes, augmented)
    mesh = make_mesh()
    model = make_model(config, NETWORKS[sizes["network"]].num_identities)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = init_state(model, optimizer, config.seed, mesh)
    batch = shard(mesh, make_batch(sizes))
    step_function: Any = make_train_step(model, optimizer, config, mesh)
    started = time.perf_counter()
    lowered = step_function.lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "tracing": traced - started,
        "compiling": time.perf_counter() - traced,
        "operations": compiled.cost_analysis()["flops"],
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
    }

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(metrics["loss"])

    return step, facts


def torch_step(
    sizes: Mapping[str, Any], form: Mapping[str, Any]
) -> tuple[Callable[[], float], dict[str, Any]]:
    """PyTorch's step in the form of the given flags."""
    from benchmarks import torch_resnet

    batch = make_batch(sizes)
    step, parameters = torch_resnet.train_step(
        batch["image"],
        batch["identity"],
        num_identities=NETWORKS[sizes["network"]].num_identities,
        dtype=sizes["dtype"],
        **form,
    )
    return step, {"parameters": parameters}


def main() -> None:
    """Serves the steps of one candidate."""
    spec = json.loads(sys.argv[1])
    changes, form = spec.pop("config", {}), spec.pop("torch", None)
    augmented = spec.pop("augmented", False)
    if form is None:
        turns.serve(lambda: our_step(spec, changes, augmented))
    else:
        turns.serve(lambda: torch_step(spec, form))


if __name__ == "__main__":
    main()
