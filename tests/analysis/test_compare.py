"""Several runs side by side: what the page shows, and what it refuses."""

import json

import pytest

from mbn_jax.analysis.compare import write_comparison
from mbn_jax.analysis.gap import Gap, as_json
from mbn_jax.errors import InputError

from ..commands import in_process

GAP_CHARTS = 2 * 4  # of both ways: intra, lasting, and inter of either modality


def config(norm="mbn", **keys):
    return {"model": {"norm": norm, "depth": 18}, "seed": 0, **keys}


@pytest.fixture
def runs(make_workdir):
    """One that finds everybody, and one that does not."""
    return [
        make_workdir("plain", config("bn"), noise=0.6),
        make_workdir("modal", config("mbn")),
    ]


def compared(runs, read):
    path = runs[0].parent / "compare.html"
    write_comparison(runs, path)
    return read(path)[1]


def refused(runs, path, message):
    with pytest.raises(InputError, match=message) as error:
        write_comparison(runs, path)
    assert "\n" not in str(error.value)


def add_gaps(workdir):
    gaps = [
        Gap(
            "norm1",
            side,
            {"visible-infrared": 0.5},
            {"visible-infrared": 0.3},
            {"visible": 0.2, "infrared": 0.1},
        )
        for side in ("before", "after")
    ]
    text = json.dumps(as_json({"training": gaps, "evaluation": gaps}))
    (workdir / "gaps.json").write_text(text)


def test_the_figures_of_all_runs_stand_side_by_side(runs, read):
    text = compared(runs, read)
    for run in runs:
        figures = json.loads((run / "results.json").read_text())["figures"]
        for of_protocol in ("infrared_to_visible", "visible_to_infrared"):
            values = figures["last"][of_protocol]
            row = [f"{100 * values[k]:.1f}" for k in ("rank1", "rank5", "rank10")]
            assert f"{run.name} (40) {' '.join(row)}" in text
    assert "chance" in text
    assert "vary from seed to seed, use `python -m mbn_jax ablate`" in text


def test_the_page_needs_no_other_file_and_is_the_same_every_time(runs, read, tmp_path):
    pages = [tmp_path / "a" / "one.html", tmp_path / "two.html"]
    for path in pages:
        write_comparison(runs, path)
    reader, _ = read(pages[0])
    assert all(address.startswith("#") for address in reader.addresses)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_keys_that_differ_are_listed_and_others_are_not(runs, read):
    text = compared(runs, read)
    assert "model.norm bn mbn" in text
    assert "model.depth" not in text
    assert "without this key" not in text


def test_a_key_that_one_run_does_not_know_is_listed(make_workdir, read):
    runs = [make_workdir("old", config()), make_workdir("new", config(added=3))]
    text = compared(runs, read)
    assert "added – 3" in text
    assert "–: the run is of a version without this key" in text
    assert "added 3 –" in compared(runs[::-1], read)


def test_equal_configurations_differ_nowhere(make_workdir, read):
    text = compared([make_workdir("a", config()), make_workdir("b", config())], read)
    assert "Where the configurations differ Nowhere." in text


def test_every_chart_has_all_runs(runs, read):
    for run in runs:
        add_gaps(run)
    text = compared(runs, read)
    for title in (
        "Training loss",
        "Validation mAP, infrared → visible",
        "Validation mAP, visible → infrared",
        "CMC, infrared → visible",
        "CMC, visible → infrared",
    ):
        _, chart = text.rsplit(title, 1)
        legend = chart.split("plain", 1)[1][:200]
        assert "modal" in legend
    assert text.count("modal, after") == GAP_CHARTS
    assert "Not measured" not in text


def test_runs_of_an_older_version_without_gaps_can_be_compared(runs, read):
    text = compared(runs, read)
    assert "The two distribution gaps Not measured for plain; modal" in text
    add_gaps(runs[1])
    text = compared(runs, read)
    assert text.count("modal, after") == GAP_CHARTS
    assert "Not measured for plain: gap_batches was 0" in text


def test_runs_without_logs_can_be_compared(runs, read):
    for run in runs:
        (run / "metrics.jsonl").unlink()
    text = compared(runs, read)
    assert "Training loss" not in text
    assert "CMC, infrared → visible" in text


def test_of_names_only_what_differs_is_shown(make_workdir, read):
    runs = [make_workdir(f"data=nir,norm={n},seed=0", config(n)) for n in ("bn", "mbn")]
    text = compared(runs, read)
    assert "synthetic_vireid/nir: norm=bn · norm=mbn" in text
    assert "seed=0" not in text


def test_equal_names_are_told_apart_by_their_folders(make_workdir, tmp_path, read):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    runs = [make_workdir("a/run", config()), make_workdir("b/run", config("bn"))]
    text = compared(runs, read)
    assert all(f"{run} (40)" in text for run in runs)


def test_a_name_is_text_and_not_markup_or_mathematics(make_workdir, read):
    runs = [make_workdir("<i>$x_{$", config()), make_workdir("_b", config("bn"))]
    add_gaps(runs[1])
    text = compared(runs, read)
    assert "<i>$x_{$ (40)" in text
    assert text.count("_b (40)") == 2
    assert text.count("_b, after") == GAP_CHARTS
    assert "<i>$x_{$ _b" in text.split("Training loss")[1]


def test_what_cannot_be_compared_is_refused(runs, make_workdir, tmp_path):
    path = tmp_path / "compare.html"
    thermal = make_workdir("thermal", config(), dataset="synthetic_vireid/thermal")
    refused([*runs, thermal], path, r"thermal was tested on .*, but .*plain on")
    (tmp_path / "unfinished").mkdir()
    unfinished = [*runs, tmp_path / "unfinished"]
    refused(unfinished, path, r"unfinished holds no results\.json.* finished run")
    refused(runs[:1], path, "Two to 4 work directories are expected, but there are 1")
    five = [make_workdir(f"run{i}", config()) for i in range(5)]
    refused(five, path, "there are 5.*ablate")
    refused([*runs, tmp_path / "a" / ".." / "plain"], path, "is given twice")
    assert not path.exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("results.json", lambda r: r.pop("protocols"), "no 'protocols'.*training comm"),
        ("results.json", lambda r: r.pop("dataset"), "it has no 'dataset'"),
        ("results.json", lambda r: r["figures"].pop("chance"), "it has no 'chance'"),
        ("results.json", lambda r: r.update(protocols=3), "does not hold the results"),
        (
            "results.json",
            lambda r: r["figures"]["last"]["infrared_to_visible"].update(mAP="0.5"),
            "does not hold the results",
        ),
        ("results.json", lambda r: r.update(figures=[]), "does not hold the results"),
        (
            "results.json",
            lambda r: r["figures"]["last"].update(step="<b>"),
            "does not hold the results",
        ),
        (
            "results.json",
            lambda r: r["figures"]["last"]["infrared_to_visible"].update(cmc=[[0.5]]),
            "does not hold the results",
        ),
        (
            "results.json",
            lambda r: r["protocols"]["infrared_to_visible"].update(title=3),
            "does not hold the results",
        ),
        (
            "gaps.json",
            lambda g: g["training"][0].update(intra={"visible-infrared": "0.5"}),
            "does not hold the gaps",
        ),
        ("gaps.json", lambda g: g.update(training=None), "does not hold the gaps"),
        ("gaps.json", lambda g: g["training"].append(3), "does not hold the gaps"),
    ],
)
def test_a_file_that_is_not_what_training_writes_is_named(runs, file, change, message):
    add_gaps(runs[1])
    path = runs[1] / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    refused(runs, runs[0].parent / "compare.html", rf"modal/{file} .*{message}")


def test_a_file_without_an_object_is_refused(runs):
    page = runs[0].parent / "compare.html"
    for file in ("config.json", "results.json", "gaps.json"):
        for content in ("[1]", "null", "\0", '{"a":' * 10_000):
            before = (runs[1] / file).read_text() if (runs[1] / file).exists() else ""
            (runs[1] / file).write_text(content)
            refused(runs, page, rf"modal/{file} cannot be read")
            (runs[1] / file).write_text(before) if before else (runs[1] / file).unlink()
    (runs[1] / "config.json").unlink()
    refused(runs, page, r"modal/config\.json is missing.*put back")


def test_a_damaged_log_is_compared_without_its_damaged_lines(runs, read, capsys):
    before = compared(runs, read)
    with (runs[1] / "metrics.jsonl").open("ab") as file:
        file.write(b"[]\n{}\n\xff\xfe\n")
    assert compared(runs, read) == before
    assert "3 of 45 lines, the first of them line 43" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [("$a$b^", "a$b$_{", "[bold]x"), ("\udcff", "a\x1b[2J")], ids=repr
)
def test_any_name_of_a_folder_can_be_shown(names, make_workdir, read):
    runs = [make_workdir(name, config()) for name in (*names, "b")]
    for run in runs:
        add_gaps(run)
    text = compared(runs, read)
    for name in names:
        assert f"{name.encode(errors='replace').decode()} (40)" in text


def test_a_page_that_cannot_be_written_is_named(runs, tmp_path):
    refused(runs, runs[0], r"plain is a folder, but .* one HTML file")
    refused(runs, runs[0] / "results.json" / "x.html", r"x\.html cannot be written")


def test_the_command_prints_where_the_page_is_or_what_is_wrong(runs, tmp_path):
    path = tmp_path / "here" / "page.html"
    done = in_process.run("compare", f"--output={path}", *runs)
    assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
    assert path.exists()
    wrong = in_process.run("compare", runs[0])
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: Two to 4 work directories")
    assert wrong.stderr.count("\n") == 1
