"""Processes that fall silent, with a store in place of JAX's and quick clocks."""

import threading
import time

import pytest

from mbn_jax.training import processes as module
from mbn_jax.training.processes import heartbeats


class Store:
    """Of two processes; the other one counts on until it is stopped."""

    def __init__(self):
        self.values, self.other, self.blocked = {}, "counts", threading.Event()

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        if self.other == "store blocks":
            self.blocked.wait()
        self.values[key] = value

    def key_value_dir_get(self, folder):
        if self.other == "counts":
            self.values[f"{folder}/1"] = str(time.monotonic())
        return list(self.values.items())


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(module.distributed.global_state, "client", store)
    monkeypatch.setattr(module.jax, "process_index", lambda: 0)
    monkeypatch.setattr(module.jax, "process_count", lambda: 2)
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    yield store
    store.blocked.set()


@pytest.mark.parametrize("other", ["is silent", "store blocks"])
def test_a_process_that_falls_silent_is_reported_once(store, other):
    said, told = [], threading.Event()

    def lost(reason):
        said.append(reason)
        told.set()

    with heartbeats(lost, silence_s=0.3):
        time.sleep(0.6)
        assert not said
        store.other = other
        assert told.wait(10)
        time.sleep(0.1)
    assert said == ["no sign of process 1 for 0 s"]


def test_nobody_is_lost_after_the_end(store):
    said = []
    with heartbeats(said.append, silence_s=0.1):
        pass
    store.other = "is silent"
    time.sleep(0.3)
    assert not said
