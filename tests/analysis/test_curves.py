"""A log with damaged lines: what is whole is read, and the run goes on."""

import json

import pytest

from mbn_jax.analysis.curves import read_metrics
from mbn_jax.errors import InputError
from mbn_jax.training.logs import MetricWriter

GOOD = [{"step": s, "loss": 1.5 / s} for s in (1, 2, 3)]
DAMAGED = [
    b"[1, 2]",
    b"null",
    b'{"loss": 1.0}',
    b'{"step": "2", "loss": 1.0}',
    b'{"step": true, "loss": 1.0}',
    b'{"step": -1, "loss": 1.0}',
    b'{"step": 2, "loss": "low"}',
    b'{"step": 2, "loss": [1.0]}',
    b'{"step": 1e3, "loss": 1.0}',
    b'{"step": 1' + b"0" * 400 + b"}",
    b"\x00\xff\xfe\x9f" * 30,
    b'{"a":' * 10_000,
    b"",
]


def write(path, *more):
    first, *rest = [json.dumps(line).encode() for line in GOOD]
    path.write_bytes(b"".join(line + b"\n" for line in (first, *more, *rest)))


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: repr(line[:20]))
def test_a_damaged_line_is_left_out_and_reported(line, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path, line)
    assert read_metrics(path) == GOOD
    assert f"{path}: 1 of 4 lines, the first of them line 2" in capsys.readouterr().err


def test_a_run_whose_log_is_damaged_resumes(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path, *DAMAGED)
    with MetricWriter(tmp_path, start_step=2) as writer:
        writer.write(3, {"loss": 0.25})
    assert "13 of 16 lines" in capsys.readouterr().err
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [*GOOD[:2], {"step": 3, "loss": 0.25}]


def test_a_line_that_was_torn_off_is_not_worth_a_word(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    write(path)
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert read_metrics(path) == GOOD
    assert capsys.readouterr().err == ""


def test_what_is_not_a_file_is_refused(tmp_path):
    assert read_metrics(tmp_path / "absent") == []
    with pytest.raises(InputError, match="not a regular file"):
        read_metrics(tmp_path)
