"""Checkpoints in a work directory, and the way back from one to a network."""

from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from mbn_jax.errors import InputError
from mbn_jax.models.reid import ReID
from mbn_jax.training.config import read_config
from mbn_jax.training.step import ModelState, make_model

METRIC = "mean_mAP"


def _score(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


class Checkpoints:
    """The latest two checkpoints and the best on validation, written asynchronously.

    A context manager; leaving it waits for what is still being written.
    """

    def __init__(self, workdir: str | Path, *, to_write: bool = True) -> None:
        """Opens `workdir/checkpoints`; if `to_write`, makes it and clears debris."""
        self.directory = Path(workdir).absolute() / "checkpoints"
        best = managers.BestN(
            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
        # `max_to_keep` with `best_fn` would evict the newest checkpoint, and with it
        # the point to resume from.
        keep = managers.AnyPreservationPolicy([managers.LatestN(2), best])
        self._manager = ocp.CheckpointManager(
            self.directory,
            # Named here, so that a manager that has saved nothing yet can read.
            item_handlers=ocp.PyTreeCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                create=to_write,
                cleanup_tmp_directories=to_write,
                # The policy alone decides what is kept; without best_fn the metrics
                # that it asks for are not written.
                best_fn=_score,
                preservation_policy=keep,
            ),
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for what is still being written."""
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order."""
        self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The best step on validation, the later of equals; None without validation."""
        scores = {step: self._manager.metrics(step) for step in self.steps()}
        return max(
            (step for step, metrics in scores.items() if metrics),
            key=lambda step: (_score(scores[step]), step),
            default=None,
        )

    def save(self, state: ModelState, mean_map: float | None) -> None:
        """Starts to write a checkpoint; returns before it is on disk.

        Args:
          state: after a step.
          mean_map: by which the best step is chosen; None without validation.
        """
        self._manager.save(
            int(state.step),
            args=ocp.args.PyTreeSave(state),
            metrics=None if mean_map is None else {METRIC: mean_map},
        )

    def restore(self, step: int, like: ModelState) -> ModelState:
        """Reads a checkpoint into arrays of the types and shardings of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(step, abstract, partial=False)

    def restore_variables(self, step: int) -> dict[str, Any]:
        """Reads parameters and statistics of a checkpoint, on one device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        stored = self._manager.item_metadata(step).tree
        wanted = {
            name: jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=device
                ),
                stored[name],
            )
            for name in ("params", "batch_stats")
        }
        return self._read(step, wanted, partial=True)

    def _read(self, step: int, abstract: Any, *, partial: bool) -> Any:
        return self._manager.restore(
            step,
            args=ocp.args.PyTreeRestore(
                abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=partial,
            ),
        )


def load(
    workdir: str | Path, checkpoint: Literal["last", "best"] | int = "last"
) -> tuple[ReID, dict[str, Any]]:
    """A trained network of a work directory.

    Args:
      workdir: of a run of `experiments/train.py`.
      checkpoint: "last", "best" (on validation), or the step of a kept checkpoint.

    Returns:
      The model and its variables, for `model.apply(variables, …, train=False)` and
      `mbn_jax.embed(model, variables, images_uint8, modality)`.

    Raises:
      InputError: if it is not a work directory or holds no such checkpoint.
    """
    model, variables, _ = load_with_step(workdir, checkpoint)
    return model, variables


def load_with_step(
    workdir: str | Path, checkpoint: str | int
) -> tuple[ReID, dict[str, Any], int]:
    """As `load`, and the step after which the network was saved."""
    config = read_config(workdir)
    if not (Path(workdir) / "checkpoints").is_dir():
        raise InputError(
            f"{workdir} holds no checkpoint yet; train it first with "
            f"experiments/train.py --workdir {workdir}."
        )
    with Checkpoints(workdir, to_write=False) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise InputError(
                f"{workdir} holds no checkpoint yet; train it first with "
                f"experiments/train.py --workdir {workdir}."
            )
        step: int | str = checkpoint
        if checkpoint == "last":
            step = steps[-1]
        elif checkpoint == "best":
            best = checkpoints.best_step()
            if best is None:
                raise InputError(
                    f"{workdir} was trained without validation, so that no step is the "
                    "best; take 'last', or train with config.data.num_val_identities."
                )
            step = best
        if step not in steps:
            raise InputError(
                f"{workdir} holds no checkpoint {checkpoint!r}; it holds 'last', "
                f"'best' and the steps {', '.join(map(str, steps))}."
            )
        variables = checkpoints.restore_variables(step)
    num_identities = variables["params"]["classifier"]["kernel"].shape[1]
    return make_model(config, num_identities), variables, int(step)
