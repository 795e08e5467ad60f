import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mbn_jax.analysis.ranked_lists import RankedList
from mbn_jax.analysis.report import write_report
from mbn_jax.data.records import Records
from mbn_jax.errors import InputError
from mbn_jax.evaluation import (
    EMBEDDED_PROTOCOLS,
    evaluate,
    evaluate_chance,
    make_results,
)
from mbn_jax.files import write_atomically

VOID = {"meta", "img", "br", "wbr"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects the text and the addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    assert not reader.open
    return reader, re.sub(r"\s+", " ", " ".join(reader.words))


@pytest.fixture
def workdir(tmp_path):
    identity, modality = np.repeat(np.arange(5), 4), np.tile([0, 0, 1, 1], 5)
    name = np.array([f"{i}.jpg" for i in range(20)])
    records = Records(identity=identity, camera=modality, modality=modality, name=name)
    noise = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    perfect = evaluate(
        np.eye(8, dtype=np.float32)[identity], records, EMBEDDED_PROTOCOLS
    )
    results = make_results(
        dataset="synthetic_vireid/nir",
        split="test",
        selection="It was chosen by the highest mAP on the validation split.",
        protocols=EMBEDDED_PROTOCOLS,
        figures={
            "last": {"step": 40, **perfect},
            "best": {"step": 20, **perfect},
            "untrained": {"step": 0, **evaluate(noise, records, EMBEDDED_PROTOCOLS)},
            "chance": evaluate_chance(records, EMBEDDED_PROTOCOLS),
        },
    )
    (tmp_path / "results.json").write_text(json.dumps(results))
    config = {"data": {"name": "<b>&"}, "rate": 0.5, "empty": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lines = [{"step": s, "loss": 4.0 / s, "accuracy": s / 40} for s in range(1, 41)]
    for step in (20, 40):
        line = {"step": step}
        for direction in perfect:
            line[f"val/{direction}/mAP"] = step / 80
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


def rankings():
    image = np.zeros((8, 4, 3), np.uint8)
    ranked = RankedList(
        image, "<i>query", [image] * 3, ["a", "b", "c"], [True, False, None]
    )
    return {"infrared_to_visible": [ranked], "visible_to_infrared": [ranked]}


def test_the_page_needs_no_other_file(workdir):
    path = write_report(workdir, rankings())
    assert path == workdir / "report" / "index.html"
    assert os.listdir(path.parent) == ["index.html"]
    reader, _ = read(path)
    assert len(reader.addresses) == 8
    assert all(a.startswith("data:image/jpeg;base64,") for a in reader.addresses)
    assert "<script" not in path.read_text()


def test_the_page_says_what_a_reader_must_know(workdir):
    _, text = read(write_report(workdir, rankings()))
    for expected in (
        "last step (40)",
        "best on validation (20)",
        "untrained network",
        "the exact expectation for a gallery in random order",
        "Best on validation is step 20. It was chosen by the highest mAP",
        "the CMC counts images, not identities",
        "10 of 10 queries scored, 10 gallery images",
        "not picked for success",
        "Training loss",
        "Training accuracy",
        "Validation mAP",
        "CMC, infrared → visible",
        "CMC, visible → infrared",
        "best: step 20",
        "1 ✓",
        "2 ✗",
        "data.name",
    ):
        assert expected in text


def test_text_is_escaped(workdir):
    page = write_report(workdir, rankings()).read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "&lt;i&gt;query" in page
    assert "<b>&" not in page
    assert "<i>query" not in page


def test_the_same_run_gives_the_same_page(workdir):
    first = write_report(workdir, rankings()).read_bytes()
    assert write_report(workdir, rankings()).read_bytes() == first


def test_a_resumed_run_counts_its_repeated_steps_once_and_ignores_a_torn_line(workdir):
    before = write_report(workdir, rankings()).read_bytes()
    path = workdir / "metrics.jsonl"
    lines = path.read_text()
    wrong = '{"step": 3, "loss": 99.0, "accuracy": 0.0}\n'
    path.write_text(wrong + lines + '{"step": 41, "lo')
    assert write_report(workdir, rankings()).read_bytes() == before


def test_a_run_without_curves_or_lists_has_a_report_nevertheless(workdir):
    (workdir / "metrics.jsonl").unlink()
    _, text = read(write_report(workdir, {}))
    assert "Training loss" not in text
    assert "Ranked lists" not in text
    assert "CMC, infrared → visible" in text


def test_a_long_run_keeps_the_page_small(workdir):
    with (workdir / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            file.write(json.dumps({"step": step, "loss": step % 7}) + "\n")
    assert write_report(workdir, {}).stat().st_size < 300_000


def test_a_missing_file_is_named(workdir):
    (workdir / "results.json").unlink()
    with pytest.raises(InputError, match=r"results\.json cannot be read"):
        write_report(workdir, rankings())
    assert not (workdir / "report").exists()


def test_writing_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["index.html"]
