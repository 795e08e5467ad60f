import itertools
import json
import os
import re

import numpy as np
import pytest

from mbn_jax.analysis.charts import Section, chart, svg
from mbn_jax.analysis.ranked_lists import RankedList
from mbn_jax.analysis.report import write_report
from mbn_jax.errors import InputError
from mbn_jax.files import write_atomically


def rankings():
    image = np.zeros((8, 4, 3), np.uint8)
    ranked = RankedList(
        image, "<i>query", [image] * 3, ["a", "b", "c"], [True, False, None]
    )
    return {"infrared_to_visible": [ranked], "visible_to_infrared": [ranked]}


def test_the_page_needs_no_other_file(workdir, read):
    path = write_report(workdir, rankings())
    assert path == workdir / "report" / "index.html"
    assert os.listdir(path.parent) == ["index.html"]
    reader, _ = read(path)
    pictures = [a for a in reader.addresses if not a.startswith("#")]
    assert len(pictures) == 8
    assert all(a.startswith("data:image/jpeg;base64,") for a in pictures)
    assert "<script" not in path.read_text()


def test_the_page_says_what_a_reader_must_know(workdir, read):
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


def test_the_page_names_the_task_and_the_modalities_of_the_data(workdir, read):
    path = workdir / "results.json"
    results = json.loads(path.read_text()) | {"task": "cross-modal patch retrieval"}
    path.write_text(json.dumps(results))
    names = ("visible", "nir", "thermal")
    _, text = read(write_report(workdir, rankings(), modalities=names))
    assert "synthetic_vireid/nir: cross-modal patch retrieval" in text
    assert "of one modality, visible, nir or thermal, the network ranks the" in text
    assert "images of another" in text
    assert not re.search("person|people", text)


def test_a_run_without_a_task_is_one_of_person_re_identification(workdir, read):
    path = workdir / "results.json"
    results = json.loads(path.read_text())
    del results["task"]
    path.write_text(json.dumps(results))
    _, text = read(write_report(workdir, rankings()))
    assert "synthetic_vireid/nir: person re-identification" in text
    assert "visible or infrared, the network ranks the images of the other" in text


def test_three_modalities_have_six_protocols_each_with_its_parts(make_workdir, read):
    names = ("visible", "nir", "thermal")
    workdir = make_workdir("three", modalities=names)
    (of_protocol, _) = rankings().values()
    protocols = json.loads((workdir / "results.json").read_text())["protocols"]
    lists = dict.fromkeys(protocols, of_protocol)
    reader, text = read(write_report(workdir, lists, modalities=names))
    for query, gallery in itertools.permutations(names, 2):
        title = f"{query} → {gallery}"
        assert f"{title}, in percent" in text
        assert f"CMC, {title}" in text
        # A tile, figures, the legend of the validation, CMC, and ranked lists.
        assert text.count(title) == 5
    pictures = [a for a in reader.addresses if not a.startswith("#")]
    assert len(pictures) == 6 * 4


def test_every_section_can_be_reached_from_the_top(workdir, read):
    section = Section(
        "Further <charts>", "What they show.", [svg(chart("", "", "")[0])]
    )
    reader, text = read(write_report(workdir, rankings(), [section]))
    links = [a.removeprefix("#") for a in reader.addresses if a.startswith("#")]
    assert links == reader.anchors
    assert links == [
        "metrics",
        "training",
        "cumulative-matching-cmc",
        "ranked-lists",
        "further-charts",
        "configuration",
    ]
    assert text.count("Further <charts>") == 2


def test_a_section_has_its_words_and_charts_and_none_without_charts(workdir, read):
    drawn = svg(chart("A further chart", "x", "y")[0])
    sections = [Section("One", "How to read it.", [drawn]), Section("Two", "No.", [])]
    _, text = read(write_report(workdir, {}, sections))
    assert "How to read it." in text
    assert "A further chart" in text
    assert "Two" not in text


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


def test_a_run_without_curves_or_lists_has_a_report_nevertheless(workdir, read):
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
