"""Trains on a file system whose power fails, and looks at what is left: needs root.

    python -m tests.failures.power_loss --losses=12

The file system is ext4 in a file. At moments drawn by a seed the file is copied while a
run writes to the file system, as a loss of power would leave it; the copy is mounted,
what is on it is checked, and the run goes on there to its end.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import absl.logging

# As in the tests: no two programs of one computation that add in another order.
os.environ["JAX_PLATFORMS"] = "cpu"

from ..training.conftest import small_config
from ..training.test_loop import assert_same_outcome, logged, overrides, start
from .disks import after_power_loss, image_disk
from .faults import finish, has_logged, steps_of

FOUND = "{:>4}  {:>7}  {:>15}  {:>15}  {}"


def main() -> None:
    """Prints a line for each loss; raises AssertionError where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", type=int, default=12, help="how often power fails")
    parser.add_argument("--seed", type=int, default=0, help="for the moments")
    flags = parser.parse_args()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns of what is no fault
    with tempfile.TemporaryDirectory(prefix="mbn_jax_power_loss_") as folder:
        lose_power(Path(folder), flags.losses, random.Random(flags.seed))


def lose_power(folder: Path, losses: int, rng: random.Random) -> None:
    config = small_config(folder / "data")
    config.num_steps, config.eval_every = 40, 4
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    undisturbed = folder / "undisturbed" / "run"
    undisturbed.parent.mkdir()
    finish(config, undisturbed)
    print(
        FOUND.format("loss", "at step", "checkpoints", "after the loss", "in the end")
    )
    for loss in range(1, losses + 1):
        step, wait = rng.randrange(40), rng.uniform(0, 0.3)
        image, disk, left = folder / "image", folder / "disk", folder / "left"
        with image_disk(image, disk):
            process = start(disk / "run", *overrides(config))
            while process.poll() is None and not has_come_to(disk / "run", step):
                time.sleep(0.005)
            time.sleep(wait)
            before = steps_of(disk / "run")
            with after_power_loss(image, folder / "copy", left):
                process.kill()
                process.communicate()
                after = steps_of(left / "run")
                go_on(config, left / "run", before, undisturbed)
        listed = (", ".join(map(str, steps)) or "none" for steps in (before, after))
        print(FOUND.format(loss, step, *listed, "the same"), flush=True)


def has_come_to(workdir: Path, step: int) -> bool:
    """Before the first step: that there is a configuration."""
    return has_logged(workdir, step) if step else (workdir / "config.json").exists()


def go_on(config, workdir: Path, before: list[int], undisturbed: Path) -> None:
    """Starts the run again where the power failed, and expects the same end."""
    after = steps_of(workdir)
    # The newest may have had its name in memory and not on the disk yet.
    assert max(after, default=0) >= max(before[:-1], default=0), (before, after)
    if (workdir / "config.json").exists():
        json.loads((workdir / "config.json").read_text())
    told = finish(config, workdir)
    assert "cannot be read" not in told, told
    assert not (workdir / "damaged_checkpoints").exists()
    assert not after or f"resumed after step {max(after)}" in told, told
    assert_same_outcome(workdir, undisturbed)
    steps = [line["step"] for line in logged(workdir) if "loss" in line]
    assert steps == list(range(1, 41)), steps


if __name__ == "__main__":
    main()
