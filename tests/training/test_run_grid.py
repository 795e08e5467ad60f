"""The runs of a grid: carried out, interrupted, resumed, and shown."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbn_jax import InputError
from mbn_jax.analysis.ablation import AS_TRAINED, FACTS, METRICS, Result, read_csv
from mbn_jax.analysis.gap import Gap, as_json
from mbn_jax.training import run_grid
from mbn_jax.training.config import default_config
from mbn_jax.training.diagnostics import CONTROLS
from mbn_jax.training.grid import Run, make_runs

from ..commands import in_process
from .test_loop import overrides

LAYER = Gap("neck", "after", {"a-b": 0.1}, {"a-b": 0.1}, {"a": 0.1, "b": 0.1})
SCRIPT = Path(__file__).parents[2] / "experiments" / "ablate.py"


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory, data_dir):
    """A grid that was interrupted while its first runs were under way, and resumed."""
    from .conftest import small_config

    workdir = tmp_path_factory.mktemp("ablation") / "grid"
    config = small_config(data_dir)
    command = [
        *(sys.executable, SCRIPT, f"--workdir={workdir}", "--grid=seed=0"),
        "--num_parallel=2",
        *overrides(config),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        while not list(workdir.glob("*/config.json")) and first.poll() is None:
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)
        assert "terminated; the same command goes on" in first.stderr.read()
    assert first.returncode == 143
    assert not list(workdir.glob("*/controls.json"))
    # It would be refused if somebody still trained there.
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return workdir, command, done


def test_runs_are_carried_out_and_shown(carried_out):
    workdir, _, done = carried_out
    assert "0 of 2 runs are there" in done.stderr
    assert "2/2" in done.stderr
    # Two directions of BN and of MBN.
    assert done.stdout.count("infrared → visible") == 2
    assert done.stdout.count("visible → infrared") == 2
    assert (workdir / "ablation.md").read_text() in done.stdout
    for name in ("ablation.png", "by_gap.png"):
        assert (workdir / name).stat().st_size > 100
    results = read_csv((workdir / "ablation.csv").read_text(), "ablation.csv")
    assert {(r.norm, r.statistics) for r in results} == {
        ("bn", "as trained"),
        ("bn", "re-estimated together"),
        ("bn", "re-estimated by modality"),
        ("mbn", "as trained"),
        ("mbn", "re-estimated by modality"),
        ("mbn", "of the other modality"),
        ("mbn", "pooled"),
    }
    assert len(results) == 2 * 7


def test_as_trained_is_what_the_run_itself_reports(carried_out):
    workdir, _, _ = carried_out
    for result in read_csv((workdir / "ablation.csv").read_text(), "ablation.csv"):
        if result.statistics == "as trained":
            run = workdir / result.run
            figures = json.loads((run / "results.json").read_text())["figures"]["last"]
            expected = figures[result.protocol]
            assert result.metrics["mAP"] == pytest.approx(expected["mAP"], abs=1e-5)
            accuracies = [
                entry["accuracy"]
                for line in (run / "metrics.jsonl").read_text().splitlines()
                if "accuracy" in (entry := json.loads(line))
            ]
            assert result.facts["accuracy"] == pytest.approx(accuracies[-1], abs=1e-6)


def test_tables_are_made_again_from_the_csv(carried_out, tmp_path):
    workdir, _, done = carried_out
    flags = [f"--workdir={tmp_path / 'tables'}", "--notrain"]
    given = f"--results={workdir / 'ablation.csv'}"
    again = in_process.run("ablate", *flags, given)
    assert again.stdout == done.stdout, again.stderr
    missing = in_process.run("ablate", *flags, given, f"--results={tmp_path}")
    assert missing.returncode == 1
    assert f"error: {tmp_path} is not a regular file" in missing.stderr
    nothing = in_process.run("ablate", *flags)
    assert nothing.stderr.startswith("error: --notrain needs --results=FILE")


def test_runs_whose_results_are_given_are_not_carried_out():
    grid = {"norm": ["bn", "mbn"], "seed": ["0", "1"], "sampler": ["natural"]}
    runs = make_runs(default_config(), grid, Path("runs"), cross=True)
    assert len(runs) == 4
    setting = (("sampler", "natural"),)
    metrics, facts = dict.fromkeys(METRICS, 0.5), dict.fromkeys(FACTS, 0.5)
    known = Result(setting, "bn", "1", "a_to_b", AS_TRAINED, metrics, facts, "x")
    other = known._replace(setting=(("sampler", "balanced"),), seed="0")
    left = run_grid.without_known(runs, [known, other])
    assert [(r.values["norm"], r.values["seed"]) for r in left] == [
        ("bn", "0"),
        ("mbn", "0"),
        ("mbn", "1"),
    ]


def test_gaps_of_the_layers_are_averaged_over_the_seeds(tmp_path):
    values = {"norm": "bn", "data": "nir"}
    runs = []
    for seed, intra in enumerate((0.1, 0.3)):
        config = default_config()
        run = Run({**values, "seed": str(seed)}, config, tmp_path / str(seed))
        run.workdir.mkdir()
        (run.workdir / CONTROLS).touch()
        pair = {"visible-infrared": intra}
        inter = {"visible": 0.0, "infrared": intra}
        gap = Gap("neck", "after", pair, pair, inter)
        (run.workdir / "gaps.json").write_text(json.dumps(as_json({"training": [gap]})))
        runs.append(run)
    run_grid.write_layer_gaps(runs, tmp_path)
    header, line = (tmp_path / "gaps.csv").read_text().splitlines()
    assert header == "norm,data,seeds,way,layer,side,intra,lasting,inter"
    assert line == "bn,nir,2,training,neck,after,0.2000,0.2000,0.1000"


@pytest.mark.parametrize("by_way", [{"training": []}, {"training": [LAYER] * 2}])
def test_gaps_of_other_layers_than_those_of_another_seed_are_named(by_way, tmp_path):
    runs = []
    for seed, gaps in enumerate([{"training": [LAYER]}, by_way]):
        run = Run({"norm": "bn", "seed": str(seed)}, None, tmp_path / str(seed))
        run.workdir.mkdir()
        (run.workdir / CONTROLS).touch()
        (run.workdir / "gaps.json").write_text(json.dumps(as_json(gaps)))
        runs.append(run)
    with pytest.raises(
        InputError, match=r"gaps\.json does not hold the gaps of the same"
    ):
        run_grid.write_layer_gaps(runs, tmp_path)
    assert not (tmp_path / "gaps.csv").exists()


METRICS_OF_ONE = {"infrared_to_visible": dict.fromkeys(METRICS, 0.5)}


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {AS_TRAINED: {}},
        {"pooled": METRICS_OF_ONE},
        {AS_TRAINED: METRICS_OF_ONE, "pooled": {}},
        {AS_TRAINED: METRICS_OF_ONE, "pooled": None},
        {AS_TRAINED: {"infrared_to_visible": {"mAP": 0.5}}},
        {AS_TRAINED: {"infrared_to_visible": dict.fromkeys(METRICS, "0.5")}},
        {AS_TRAINED: {"infrared_to_visible": [0.5]}},
    ],
)
def test_damaged_controls_are_named(damaged, tmp_path):
    (tmp_path / CONTROLS).write_text(json.dumps(damaged))
    with pytest.raises(InputError, match=r"controls\.json does not hold the metrics"):
        run_grid.read_results([Run({}, default_config(), tmp_path)])


def test_whole_controls_are_read(tmp_path):
    whole = {AS_TRAINED: METRICS_OF_ONE, "pooled": METRICS_OF_ONE}
    (tmp_path / CONTROLS).write_text(json.dumps(whole))
    found = run_grid.read_results([Run({}, default_config(), tmp_path)])
    assert [result.statistics for result in found] == [AS_TRAINED, "pooled"]


def test_what_is_there_is_not_trained_again(carried_out):
    workdir, command, done = carried_out
    controls = {p: p.stat().st_mtime_ns for p in workdir.glob("*/controls.json")}
    again = in_process.run("ablate", *command[2:])
    assert "2 of 2 runs are there" in again.stderr
    assert again.stdout == done.stdout
    assert controls == {p: p.stat().st_mtime_ns for p in controls}


STAND_IN = """
import json, os, pathlib, sys
command, *flags = sys.argv[1:]
arguments = dict(flag[2:].split("=", 1) for flag in flags)
workdir = pathlib.Path(arguments["workdir"])
if command == "controls":
    (workdir / "controls.json").touch()
    sys.exit()
config = json.loads(pathlib.Path(arguments["config"]).read_text())
workdir.mkdir(exist_ok=True)
(workdir / "config.json").write_text(json.dumps(config))
with open(workdir / "trained", "a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
sys.exit(f"seed {config['seed']}" if config["seed"] == 1 else 0)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A script that leaves what the commands leave, at once; of seed 1 it fails."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(run_grid, "load_splits", lambda config: None)
    monkeypatch.setattr(run_grid, "_gpus", lambda: [])
    return script


def carry_out(stand_in, num_parallel=1, num_steps=6, seeds=("0", "2")):
    config = default_config()
    config.num_steps = num_steps
    workdir = stand_in.parent / "grid"
    grid = {"norm": ["bn", "mbn"], "seed": list(seeds)}
    runs = make_runs(config, grid, workdir, cross=False)
    program = [sys.executable, str(stand_in)]
    return runs, run_grid.carry_out(runs, workdir, num_parallel, program)


def times_trained(runs):
    return [len((run.workdir / "trained").read_text().splitlines()) for run in runs]


def test_a_run_that_fails_is_named_and_the_others_go_on(stand_in):
    runs, failed = carry_out(stand_in, seeds=("1", "0"))
    assert [run.values for run in failed] == [
        {"norm": "bn", "seed": "1"},
        {"norm": "mbn", "seed": "1"},
    ]
    assert all(run.is_finished() for run in runs if run not in failed)
    assert "seed 1" in failed[0].log.read_text()


def test_what_is_missing_is_carried_out(stand_in):
    runs, _ = carry_out(stand_in)
    (runs[2].workdir / CONTROLS).unlink()
    _, failed = carry_out(stand_in)
    assert not failed
    assert times_trained(runs) == [1, 1, 2, 1]


def test_runs_of_another_configuration_are_not_taken_for_these(stand_in):
    carry_out(stand_in)
    with pytest.raises(InputError, match="num_steps was 6 and is now 7"):
        carry_out(stand_in, num_steps=7)


def test_each_of_several_at_a_time_has_a_gpu_of_those_that_are_visible(
    stand_in, monkeypatch
):
    monkeypatch.undo()
    monkeypatch.setattr(run_grid, "load_splits", lambda config: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(InputError, match="there are 2: give --num_parallel=2"):
        carry_out(stand_in, num_parallel=3)
    runs, _ = carry_out(stand_in, num_parallel=2)
    used = {(run.workdir / "trained").read_text().strip() for run in runs}
    assert used == {"4", "7"}


def test_one_at_a_time_has_all_gpus(stand_in, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    runs, _ = carry_out(stand_in)
    assert (runs[0].workdir / "trained").read_text().strip() == "4,7"


def test_a_directory_that_cannot_be_written_to_is_an_error(stand_in):
    grid = stand_in.parent / "grid"
    grid.write_text("a file")
    with pytest.raises(InputError, match="cannot be written to"):
        carry_out(stand_in, num_parallel=2)
