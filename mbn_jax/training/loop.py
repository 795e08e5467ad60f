"""A run from configuration to report, top to bottom."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mbn_jax.data.dataset import Split
from mbn_jax.data.pipeline import train_batches
from mbn_jax.data.sampling import Sampler, make_sampler
from mbn_jax.evaluation import evaluate
from mbn_jax.files import sync
from mbn_jax.mesh import make_mesh, process_rows, shard
from mbn_jax.training.checkpoint import Checkpoints
from mbn_jax.training.config import check, flatten, profile_steps
from mbn_jax.training.diagnostics import network_gaps
from mbn_jax.training.logs import MetricWriter, Profile, StepLog, TrainingProgress
from mbn_jax.training.optimizer import make_optimizer
from mbn_jax.training.outcome import mean_map, write_outcome
from mbn_jax.training.processes import (
    Terminated,
    Termination,
    check_same_everywhere,
    is_main,
    together,
)
from mbn_jax.training.resources import check_memory, keep_freed_memory
from mbn_jax.training.splits import Splits, load_splits, scored_protocols
from mbn_jax.training.step import (
    init_state,
    make_feature_fn,
    make_model,
    make_train_step,
    with_pretrained,
)
from mbn_jax.training.trained_network import split_features
from mbn_jax.training.workdir import claimed, locked


def train(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains, or resumes, evaluates, and writes the report.

    The state after step n depends on the configuration and n alone: a run that was
    interrupted at any moment and is started again ends with the same results.

    Of several processes, which `jax.distributed.initialize` has joined, each calls it
    with the same arguments.

    Args:
      config: as `mbn_jax.training.config.default_config` makes it.
      workdir: made if need be, seen by all processes. Afterwards it holds config.json,
        environment.json, metrics.jsonl, tensorboard/, checkpoints/, results.json,
        gaps.json, report/index.html.

    Returns:
      The content of results.json.

    Raises:
      InputError: for a mistake in the configuration or the data, before the work
        directory is touched; for a work directory that another run is in; for a loss
        that is not finite or a disk that is full, whose earlier checkpoints stay.
      Terminated: after a SIGTERM and a last checkpoint; calling it again goes on.
    """
    workdir = Path(workdir)
    check(config)
    check_same_everywhere(_to_be_shared(config, workdir), "configuration or --workdir")
    mesh = make_mesh(config.num_devices)
    check_memory(config, mesh)
    if mesh.devices.flat[0].platform == "cpu":
        keep_freed_memory()

    with locked(workdir, config):
        data = load_splits(config)
        protocols, left_out = scored_protocols(data.test)
        if data.validation:
            val_protocols, _ = scored_protocols(data.validation)
        sampler = make_sampler(
            config.batch.sampler,
            data.train.identity,
            data.train.modality,
            num_identities=config.batch.num_identities,
            num_images=config.batch.num_images,
            seed=config.seed,
            num_modalities=len(data.train.modalities),
        )
        batch_size = sampler.batch_size
        rows = process_rows(batch_size, mesh, config.batch.accumulation_steps)
        model = make_model(config, len(sampler.classes), data.train.modalities)
        optimizer = make_optimizer(config.optimizer, config.num_steps)
        state = init_state(model, optimizer, config.seed, mesh)
        pretrained = ""
        if config.model.pretrained:
            state, pretrained = with_pretrained(
                state, model, config.model.pretrained, mesh
            )
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

        with (
            claimed(workdir, config, data.train.info),
            Checkpoints(workdir) as checkpoints,
        ):
            untrained = features_of(state.variables, data.test)
            start = 0
            resumed = checkpoints.restore_newest(like=state)
            if resumed:
                start, state = resumed
            termination = Termination()
            profile = Profile(workdir, profile_steps(config) if is_main() else range(0))
            with (
                MetricWriter(workdir, start_step=start) as writer,
                TrainingProgress(config.num_steps, start, batch_size) as progress,
                termination.awaited(),
                profile,
                # What moves between host and device in the loop is asked for by name.
                jax.transfer_guard("disallow"),
            ):
                progress.print(_introduction(config, data, sampler, mesh.size, start))
                if left_out:
                    progress.print(
                        f"no query has a match: {', '.join(left_out)}: left out"
                    )
                if pretrained:
                    progress.print(f"pretrained: {pretrained}")
                log = StepLog(
                    writer,
                    progress,
                    log_every=config.log_every,
                    max_skipped_in_a_row=config.max_skipped_in_a_row,
                )
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
                    with profile.step(step):
                        state, metrics = train_step(state, shard(mesh, batch))
                    log.add(step, metrics)
                    profile.stop_after(step, metrics)
                    is_due = step % config.eval_every == 0 or step == config.num_steps
                    ends_here = termination.requested(step)
                    if not (is_due or ends_here):
                        continue
                    log.flush()
                    with jax.transfer_guard("allow"):
                        score = None
                        if is_due and data.validation:
                            figures = evaluate(
                                features_of(state.variables, data.validation),
                                data.validation,
                                val_protocols,
                            )
                            writer.write(step, _scalars(figures))
                            score = mean_map(figures)
                            progress.print(
                                f"step {step}/{config.num_steps}  validation mAP "
                                f"{score:.1%} (mean of {len(figures)} protocols)"
                            )
                        if is_main():  # no checkpoint without the lines before it
                            sync(workdir / "metrics.jsonl")
                        checkpoints.save(step, state, score)
                        if ends_here or step == config.num_steps:
                            checkpoints.wait()
                    if ends_here:
                        raise Terminated(step)
                    progress.pause()

            last = features_of(state.variables, data.test)
            rows_of_table = {"last": (config.num_steps, last)}
            best_step = checkpoints.best_step()
            if best_step is not None:
                best = state
                if best_step != config.num_steps:
                    best = checkpoints.restore(best_step, like=state)
                of_best = features_of(best.variables, data.test)
                rows_of_table["best"] = best_step, of_best
            # Together: nobody leaves while process 0 still writes.
            return together(
                lambda: write_outcome(
                    workdir,
                    data.test,
                    protocols,
                    selection=data.selection + _start(config),
                    features={**rows_of_table, "untrained": (0, untrained)},
                    gaps=lambda: network_gaps(
                        config,
                        model,
                        jax.device_get(state.variables),
                        {"training": data.train, "evaluation": data.test},
                        config.gap_batches,
                    ),
                )
            )


def _to_be_shared(config: ConfigDict, workdir: Path) -> str:
    """What all processes of a run must have been given alike."""
    shared = flatten(config.to_dict())
    of_each_process = (
        "log_every",
        "profile_steps",
        "compilation_cache",
        "data.data_dir",
        "data.num_threads",
    )
    for key in of_each_process:
        del shared[key]
    return json.dumps([shared, str(workdir.absolute())])


def _introduction(
    config: ConfigDict,
    data: Splits,
    sampler: Sampler,
    num_devices: int,
    start: int,
) -> str:
    left_out = len(sampler.left_out)
    return (
        f"{data}\n"
        + (f"{left_out} identities lack a modality: left out\n" if left_out else "")
        + f"{config.model.variant}, depth {config.model.depth}, width "
        f"{config.model.width:g}, {config.model.norm}, "
        f"{config.num_steps} steps of {sampler.batch_size} images on {num_devices} "
        f"{jax.devices()[0].device_kind} device(s)"
        + (f", resumed after step {start}" if start else "")
    )


def _start(config: ConfigDict) -> str:
    """What "untrained" means, where it is not as it was drawn."""
    if not config.model.pretrained:
        return ""
    return (
        " Before its first step, which is the row 'untrained network', the backbone "
        f"had the weights of {config.model.pretrained}."
    )


def _scalars(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Validation figures by the names under which they are logged."""
    return {
        f"val/{protocol}/{name}": values[name]
        for protocol, values in figures.items()
        for name in ("mAP", "rank1")
    }
