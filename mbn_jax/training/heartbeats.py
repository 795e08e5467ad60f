"""Whether the other processes of a run still answer."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

# No public function of JAX has the store of keys and values that its processes share.
from jax._src import distributed

_TICK_S = 1.0
_FOLDER = "mbn_jax_alive"


@contextlib.contextmanager
def heartbeats(lost: Callable[[str], None], *, silence_s: float) -> Iterator[None]:
    """Watches the other processes in threads; after `jax.distributed.initialize`.

    JAX watches them as well, but where one is silent it aborts the process from C++,
    before Python can say a word. So this has to be quicker.

    Args:
      lost: called in a thread, once, with what is wrong; ends the process.
      silence_s: after so many seconds without a sign a process is lost. Seconds in
        which this process was itself stopped do not count.
    """
    client: Any = distributed.global_state.client
    me = jax.process_index()
    others = [str(i) for i in range(jax.process_count()) if i != me]
    latest: dict[str, str] = {}
    ended = threading.Event()

    def beat() -> None:
        # Where process 0 is silent, which keeps the store, these calls do not return;
        # where it is gone, they raise. Either way there is no more news of anybody.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            for count in itertools.count():
                key = f"{_FOLDER}/{me}"
                client.key_value_set(key, str(count), allow_overwrite=True)
                for name, value in client.key_value_dir_get(_FOLDER):
                    latest[name.rpartition("/")[2]] = value
                if ended.wait(_TICK_S):
                    return

    def watch() -> None:
        known: dict[str, str] = {}
        silent = dict.fromkeys(others, 0)
        while not ended.wait(_TICK_S):
            for process in others:
                news = latest.get(process) != known.get(process)
                silent[process] = 0 if news else silent[process] + 1
            known |= latest
            mute = [p for p in others if silent[p] * _TICK_S >= silence_s]
            if mute:
                lost(f"no sign of process {', '.join(mute)} for {silence_s:.0f} s")
                return

    for target in (beat, watch):
        threading.Thread(target=target, name=target.__name__, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
