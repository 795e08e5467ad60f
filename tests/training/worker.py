"""One process of a run: `python -m tests.training.worker TASK`, TASK being JSON.

`{"config": …, "workdir": …, "stop_after": step or null, "first_state": file,
"process": null or [port, number, id]}`
"""

import json
import sys

import jax
import numpy as np


def run(task):
    """Trains, keeping the state after the first step, and stopping where asked to."""
    from mbn_jax.training import loop
    from mbn_jax.training.config import default_config

    config = default_config()
    config.update(task["config"])
    make_train_step, save = loop.make_train_step, loop.Checkpoints.save

    def keeping(*arguments):
        step = make_train_step(*arguments)

        def kept(state, batch):
            state, metrics = step(state, batch)
            if task["first_state"] and jax.device_get(state.step) == 1:
                leaves = jax.tree.leaves((state.variables, metrics["loss"]))
                if jax.process_index() == 0:
                    np.savez(task["first_state"], *jax.device_get(leaves))
            return state, metrics

        return kept

    def stopping(checkpoints, step, *arguments):
        save(checkpoints, step, *arguments)
        if step == task["stop_after"]:
            checkpoints.wait()
            raise KeyboardInterrupt

    loop.make_train_step, loop.Checkpoints.save = keeping, stopping
    try:
        loop.train(config, task["workdir"])
    except KeyboardInterrupt:
        if not task["stop_after"]:
            raise
    finally:
        loop.make_train_step, loop.Checkpoints.save = make_train_step, save


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    port, number, process = task["process"]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{port}", number, process)
    run(task)
    jax.distributed.shutdown()
