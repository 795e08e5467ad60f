"""Work directories of runs that never were, and a reader of pages."""

import functools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mbn_jax.evaluation import (
    evaluate,
    evaluate_chance,
    every_pair,
    make_results,
)
from mbn_jax.evaluation.records import Records

VOID = {"meta", "img", "br", "wbr"}


class Reader(HTMLParser):
    """Checks that tags nest; collects the text, the addresses and the anchors."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.anchors, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        self.anchors += [v for k, v in attributes if tag == "h2" and k == "id"]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def read():
    """The parsed page at a path, and its text."""

    def parse(path):
        reader = Reader()
        reader.feed(path.read_text())
        assert not reader.open
        return reader, re.sub(r"\s+", " ", " ".join(reader.words))

    return parse


@functools.cache
def _results(dataset, noise, modalities):
    count, protocols = len(modalities), every_pair(modalities)
    identity = np.repeat(np.arange(5), 2 * count)
    modality = np.tile(np.repeat(np.arange(count), 2), 5)
    name = np.array([f"{i}.jpg" for i in range(len(identity))])
    records = Records(identity=identity, camera=modality, modality=modality, name=name)
    random = np.random.default_rng(0).normal(size=(len(identity), 8))
    random = random.astype(np.float32)
    features = np.eye(8, dtype=np.float32)[identity] + noise * random
    trained, untrained = (evaluate(of, records, protocols) for of in (features, random))
    return make_results(
        dataset=dataset,
        split="test",
        task="person re-identification",
        selection="It was chosen by the highest mAP on the validation split.",
        protocols=protocols,
        figures={
            "last": {"step": 40, **trained},
            "best": {"step": 20, **trained},
            "untrained": {"step": 0, **untrained},
            "chance": evaluate_chance(records, protocols),
        },
    )


@pytest.fixture
def make_workdir(tmp_path):
    """Makes the work directory of a run, which is perfect but for the noise."""

    def make(
        name,
        config=None,
        dataset="synthetic_vireid/nir",
        noise=0.0,
        modalities=("visible", "infrared"),
    ):
        workdir = tmp_path / name
        workdir.mkdir()
        results = _results(dataset, noise, modalities)
        (workdir / "results.json").write_text(json.dumps(results))
        (workdir / "config.json").write_text(json.dumps(config or {}))
        lines = [{"step": s, "loss": 4.0 / s, "accuracy": s / 40} for s in range(1, 41)]
        for step in (20, 40):
            line = {"step": step}
            for direction in results["protocols"]:
                line[f"val/{direction}/mAP"] = step / 80
            lines.append(line)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (workdir / "metrics.jsonl").write_text(text)
        return workdir

    return make


@pytest.fixture
def workdir(make_workdir):
    config = {"data": {"name": "<b>&"}, "rate": 0.5, "empty": {}}
    return make_workdir("run", config)
