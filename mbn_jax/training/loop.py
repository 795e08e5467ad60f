"""A run from configuration to report, top to bottom."""

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mbn_jax.data.datasets import Split
from mbn_jax.data.pipeline import train_batches
from mbn_jax.data.sampling import BalancedSampler
from mbn_jax.errors import InputError
from mbn_jax.evaluation import evaluate, standard_protocols
from mbn_jax.files import write_json
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.config import as_json, check, check_same
from mbn_jax.training.evaluation import split_features
from mbn_jax.training.mesh import make_mesh, process_rows, shard
from mbn_jax.training.metrics import MetricWriter, StepLog, TrainingProgress
from mbn_jax.training.optimizer import make_optimizer
from mbn_jax.training.outcome import mean_map, write_outcome
from mbn_jax.training.splits import Splits, load_splits
from mbn_jax.training.step import (
    init_state,
    make_feature_fn,
    make_model,
    make_train_step,
)

PACKAGES = ("mbn-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def train(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains, or resumes, evaluates, and writes the report.

    The state after step n depends on the configuration and n alone: a run that was
    interrupted at any moment and is started again ends with the same results.

    Args:
      config: as `mbn_jax.training.config.default_config` makes it.
      workdir: made if need be. Afterwards it holds config.json, environment.json,
        metrics.jsonl, tensorboard/, checkpoints/, results.json, report/index.html.

    Returns:
      The content of results.json.

    Raises:
      InputError: for a mistake in the configuration or the data, before the work
        directory is touched, and for a loss that is not finite, whose checkpoints stay.
    """
    workdir = Path(workdir)
    check(config)
    check_same(config, workdir)
    mesh = make_mesh(config.num_devices)
    batch_size = 2 * config.batch.num_identities * config.batch.num_images
    rows = process_rows(batch_size, mesh)

    data = load_splits(config)
    protocols = standard_protocols(config.data.dataset)
    sampler = BalancedSampler(
        data.train.identity,
        data.train.modality,
        num_identities=config.batch.num_identities,
        num_images=config.batch.num_images,
        seed=config.seed,
    )
    model = make_model(config, num_identities=len(sampler.classes))
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = init_state(model, optimizer, config.seed, mesh)
    train_step = make_train_step(model, optimizer, config, mesh)
    embedding = make_feature_fn(model)

    def features_of(variables: Any, split: Split) -> np.ndarray:
        return split_features(
            functools.partial(embedding, variables),
            split,
            model.image_size,
            num_threads=config.data.num_threads,
            mesh=mesh,
        )

    with _claim(workdir, config), Checkpoints(workdir) as checkpoints:
        untrained = features_of(state.variables, data.test)
        start = checkpoints.latest_step() or 0
        if start:
            state = checkpoints.restore(start, like=state)
        with (
            MetricWriter(workdir, start_step=start) as writer,
            TrainingProgress(config.num_steps, start, batch_size) as progress,
        ):
            progress.print(_introduction(config, data, sampler, mesh.size, start))
            log = StepLog(writer, progress, config.log_every)
            batches = train_batches(
                data.train,
                sampler,
                model.image_size,
                start=start,
                stop=config.num_steps,
                rows=rows,
                num_threads=config.data.num_threads,
            )
            for step, batch in enumerate(batches, start=start + 1):
                state, metrics = train_step(state, shard(mesh, batch))
                log.add(step, metrics)
                if step % config.eval_every and step < config.num_steps:
                    continue
                log.flush()
                score = None
                if data.validation:
                    figures = evaluate(
                        features_of(state.variables, data.validation),
                        data.validation,
                        protocols,
                    )
                    writer.write(step, _scalars(figures))
                    score = mean_map(figures)
                    progress.print(
                        f"step {step}/{config.num_steps}  validation mAP {score:.1%} "
                        f"(mean of {len(figures)} protocols)"
                    )
                checkpoints.save(state, score)
                progress.pause()

        features = {"last": (config.num_steps, features_of(state.variables, data.test))}
        best_step = checkpoints.best_step()
        if best_step is not None:
            best = state
            if best_step != config.num_steps:
                best = checkpoints.restore(best_step, like=state)
            features["best"] = best_step, features_of(best.variables, data.test)
        return write_outcome(
            workdir,
            data.test,
            protocols,
            selection=data.selection,
            features={**features, "untrained": (0, untrained)},
        )


@contextlib.contextmanager
def _claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Writes who the directory belongs to; withdraws if nothing came of it.

    A run that fails before its first checkpoint leaves nothing behind, so that the same
    directory can be used once the mistake is mended.
    """
    files = {
        "config.json": as_json(config),
        "environment.json": {
            "versions": {name: version(name) for name in PACKAGES},
            "devices": [str(device) for device in jax.devices()],
            "device_kind": jax.devices()[0].device_kind,
            "process_count": jax.process_count(),
        },
    }
    existed = workdir.exists()
    try:
        for name, content in files.items():
            write_json(workdir / name, content)
    except OSError as error:
        raise InputError(
            f"The work directory {workdir} cannot be written to ({error.strerror}); "
            "give a --workdir that can."
        ) from error
    checkpoints = workdir / "checkpoints"
    try:
        yield
    except (InputError, FloatingPointError) as error:
        kept = sorted(int(p.name) for p in checkpoints.glob("*") if p.name.isdigit())
        if not kept:
            for name in (*files, "metrics.jsonl"):
                (workdir / name).unlink(missing_ok=True)
            for name in ("checkpoints", "tensorboard"):
                shutil.rmtree(workdir / name, ignore_errors=True)
            if not existed:
                workdir.rmdir()
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{error}; "
            + (
                f"the checkpoint of step {kept[-1]} stays in {checkpoints}, "
                if kept
                else "there was no checkpoint yet, "
            )
            + "try a smaller config.optimizer.learning_rate or a longer warm-up."
        ) from error


def _introduction(
    config: ConfigDict,
    data: Splits,
    sampler: BalancedSampler,
    num_devices: int,
    start: int,
) -> str:
    left_out = len(sampler.left_out)
    return (
        f"{data}\n"
        + (f"{left_out} identities lack a modality: left out\n" if left_out else "")
        + f"ResNet-{config.model.depth} × {config.model.width:g}, {config.model.norm}, "
        f"{config.num_steps} steps of {sampler.batch_size} images on {num_devices} "
        f"{jax.devices()[0].device_kind} device(s)"
        + (f", resumed after step {start}" if start else "")
    )


def _scalars(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Validation figures by the names under which they are logged."""
    return {
        f"val/{protocol}/{name}": values[name]
        for protocol, values in figures.items()
        for name in ("mAP", "rank1")
    }
