"""A run from configuration to report: it is set up, runs its steps, and is finished."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mbn_jax.data.dataset import Split
from mbn_jax.data.pipeline import train_batches
from mbn_jax.data.sampling import Sampler, make_sampler
from mbn_jax.evaluation import Protocol, evaluate
from mbn_jax.files import sync
from mbn_jax.mesh import make_mesh, process_rows, shard
from mbn_jax.models.reid import ReID
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.config import PROCESS_KEYS, check, profile_steps
from mbn_jax.training.diagnostics import network_gaps
from mbn_jax.training.final_report import write_final_report
from mbn_jax.training.launch import keep_freed_memory
from mbn_jax.training.logs import MetricWriter, Profile, StepLog, TrainingProgress
from mbn_jax.training.processes import (
    Terminated,
    awaited_termination,
    check_same_everywhere,
    is_main,
    together,
)
from mbn_jax.training.run_data import Splits, load_splits, scored_protocols
from mbn_jax.training.state import (
    ModelState,
    check_memory,
    init_state,
    make_model,
    make_optimizer,
    with_pretrained,
)
from mbn_jax.training.step import Step, make_feature_fn, make_train_step
from mbn_jax.training.trained_network import split_features
from mbn_jax.training.workdir import claimed, locked


@dataclasses.dataclass
class _Run:
    """What the parts of `train` share. Only the state changes.

    Attributes:
        protocols: those by which the test split is scored.
        val_protocols: the same of the validation split.
        rows: the rows of a batch that this process reads.
        notes: lines about what is left out or loaded.
    """

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    data: Splits
    protocols: Sequence[Protocol]
    val_protocols: Sequence[Protocol]
    sampler: Sampler
    rows: np.ndarray
    model: ReID
    train_step: Step
    embedding: Callable[..., jax.Array]
    state: ModelState
    notes: list[str]

    def features_of(self, state: ModelState, split: Split) -> np.ndarray:
        return split_features(
            functools.partial(self.embedding, state.variables),
            split,
            self.model.image_size,
            num_threads=self.config.data.num_threads,
            mesh=self.mesh,
        )


def train(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains, or resumes, evaluates, and writes the report.

    The state after step n depends on the configuration and n alone: a run that was
    interrupted at any moment and is started again ends with the same results.

    If there are several processes, which `jax.distributed.initialize` has joined, each
    calls it with the same arguments.

    Args:
        config: the configuration, from `mbn_jax.training.config.default_config`.
        workdir: made if need be, seen by all processes. Afterwards it holds
            config.json, environment.json, metrics.jsonl, tensorboard/, checkpoints/,
            results.json, gaps.json, report/index.html.

    Returns:
        The content of results.json.

    Raises:
        InputError: for a mistake in the configuration or the data, before the work
            directory is touched; for a work directory that another run is in; for a
            loss that is not finite or a disk that is full, whose earlier checkpoints
            stay.
        Terminated: after a SIGTERM and a last checkpoint; calling it again goes on.
    """
    workdir = Path(workdir)
    check(config)
    _check_processes(config, workdir)
    mesh = make_mesh(config.num_devices)
    check_memory(config, mesh)
    if mesh.devices.flat[0].platform == "cpu":
        keep_freed_memory()
    with locked(workdir, config):
        run = _set_up(config, workdir, mesh)
        with (
            claimed(workdir, config, run.data.train.info),
            Checkpoints(workdir) as checkpoints,
        ):
            untrained = run.features_of(run.state, run.data.test)
            _run_steps(run, checkpoints)
            return _finish(run, checkpoints, untrained)


def _check_processes(config: ConfigDict, workdir: Path) -> None:
    """Raises `InputError` if the processes of the run were given different things."""
    values = flatten_dict(config.to_dict(), sep=".").items()
    shared = {key: value for key, value in values if key not in PROCESS_KEYS}
    check_same_everywhere(
        json.dumps([shared, str(workdir.absolute())]), "configuration or --workdir"
    )


def _set_up(config: ConfigDict, workdir: Path, mesh: Mesh) -> _Run:
    """Everything before the first step that writes nothing."""
    data = load_splits(config)
    protocols, unscored = scored_protocols(data.test)
    val_protocols = scored_protocols(data.validation)[0] if data.validation else []
    sampler = make_sampler(
        config.batch.sampler,
        data.train.identity,
        data.train.modality,
        num_identities=config.batch.num_identities,
        num_images=config.batch.num_images,
        seed=config.seed,
        num_modalities=len(data.train.modalities),
    )
    rows = process_rows(sampler.batch_size, mesh, config.batch.accumulation_steps)
    model = make_model(config, len(sampler.classes), data.train.modalities)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = init_state(model, optimizer, config.seed, mesh)
    notes = []
    if unscored:
        notes.append(f"left out, since no query has a match: {', '.join(unscored)}")
    if config.model.pretrained:
        state, loaded = with_pretrained(state, model, config.model.pretrained, mesh)
        notes.append(f"pretrained: {loaded}")
    return _Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        data=data,
        protocols=protocols,
        val_protocols=val_protocols,
        sampler=sampler,
        rows=rows,
        model=model,
        train_step=make_train_step(model, optimizer, config, mesh),
        embedding=make_feature_fn(model),
        state=state,
        notes=notes,
    )


def _run_steps(run: _Run, checkpoints: Checkpoints) -> None:
    """Runs the steps from the newest checkpoint on; validates and saves on the way."""
    config, start = run.config, 0
    if resumed := checkpoints.restore_newest(like=run.state):
        start, run.state = resumed
    traced = profile_steps(config) if is_main() else range(0)
    with (
        MetricWriter(run.workdir, start_step=start) as writer,
        TrainingProgress(config.num_steps, start, run.sampler.batch_size) as progress,
        awaited_termination() as ends_after,
        Profile(run.workdir, traced) as profile,
        # Every transfer between host and device in the loop has to be explicit.
        jax.transfer_guard("disallow"),
    ):
        progress.print("\n".join([_introduction(run, start), *run.notes]))
        log = StepLog(
            writer,
            progress,
            log_every=config.log_every,
            max_skipped_in_a_row=config.max_skipped_in_a_row,
        )
        batches = train_batches(
            run.data.train,
            run.sampler,
            run.model.image_size,
            start=start,
            stop=config.num_steps,
            rows=run.rows,
            num_threads=config.data.num_threads,
        )
        for step, batch in enumerate(batches, start=start + 1):
            with profile.step(step):
                run.state, metrics = run.train_step(run.state, shard(run.mesh, batch))
            log.add(step, metrics)
            profile.stop_after(step, metrics)
            is_due = step % config.eval_every == 0 or step == config.num_steps
            ends_here = ends_after(step)
            if not (is_due or ends_here):
                continue
            log.flush()
            with jax.transfer_guard("allow"):
                score = None
                if is_due and run.data.validation:
                    score = _validate(run, run.data.validation, step, writer, progress)
                if is_main():  # no checkpoint without the lines before it
                    sync(run.workdir / "metrics.jsonl")
                checkpoints.save(step, run.state, score)
                if ends_here or step == config.num_steps:
                    checkpoints.wait()
            if ends_here:
                raise Terminated(step)
            progress.pause()


def _introduction(run: _Run, start: int) -> str:
    model, left_out = run.config.model, len(run.sampler.left_out)
    return (
        f"{run.data}\n"
        + (f"{left_out} identities lack a modality: left out\n" if left_out else "")
        + f"{model.variant}, depth {model.depth}, width {model.width:g}, {model.norm}, "
        f"{run.config.num_steps} steps of {run.sampler.batch_size} images on "
        f"{run.mesh.size} {jax.devices()[0].device_kind} device(s)"
        + (f", resumed after step {start}" if start else "")
    )


def _validate(
    run: _Run, split: Split, step: int, writer: MetricWriter, progress: TrainingProgress
) -> float:
    """Logs the metrics on the validation split; returns their mean mAP."""
    found = evaluate(run.features_of(run.state, split), split, run.val_protocols)
    scalars = {
        f"val/{protocol}/{name}": metrics[name]
        for protocol, metrics in found.items()
        for name in ("mAP", "rank1")
    }
    writer.write(step, scalars)
    score = float(np.mean([metrics["mAP"] for metrics in found.values()]))
    progress.print(
        f"step {step}/{run.config.num_steps}  validation mAP {score:.1%} "
        f"(mean of {len(found)} protocols)"
    )
    return score


def _finish(
    run: _Run, checkpoints: Checkpoints, untrained: np.ndarray
) -> dict[str, Any]:
    """Evaluates the last and the best step on the test, and writes the report."""
    config, test = run.config, run.data.test
    features = {"last": (config.num_steps, run.features_of(run.state, test))}
    best_step = checkpoints.best_step()
    if best_step is not None:
        best = run.state
        if best_step != config.num_steps:
            best = checkpoints.restore(best_step, like=run.state)
        features["best"] = best_step, run.features_of(best, test)
    selection = run.data.selection
    if config.model.pretrained:
        selection += (
            " Before its first step, which is the row 'untrained network', the "
            f"backbone had the weights of {config.model.pretrained}."
        )
    # Together: no process leaves while process 0 still writes.
    return together(
        lambda: write_final_report(
            run.workdir,
            test,
            run.protocols,
            selection=selection,
            features={**features, "untrained": (0, untrained)},
            gaps=lambda: network_gaps(
                config,
                run.model,
                jax.device_get(run.state.variables),
                {"training": run.data.train, "evaluation": test},
                config.gap_batches,
            ),
        )
    )
