"""Reading files that anybody may have damaged: an object, or one sentence."""

import os
from pathlib import Path

import pytest

from mbn_jax.errors import InputError
from mbn_jax.files import (
    check_file,
    parse_json,
    read_bytes,
    read_json,
    regular_size,
    write_together,
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "it holds a list"),
        (b"null", "it holds null"),
        (b'"text"', "it holds text"),
        (b"true", "it holds true or false"),
        (b"3", "it holds a number"),
        (b"", "Expecting value"),
        (b'{"a": 1', "delimiter"),
        (b'{"a": "\xff"}', "decode"),
        (b"[" * 10_000, "recursion"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "recursion"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested more than 64 levels"),
        (b'{"a": 1' + b"0" * 19 + b"}", "too large"),
        (b'{"a": 1' + b"0" * 9999 + b"}", "too large"),
    ],
)
def test_what_is_not_a_json_object_is_one_sentence_with_its_name(
    content, reason, tmp_path
):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=reason):
        parse_json(content, "x.json")


def test_an_object_is_read_as_it_was_written():
    text = '{"a": [1, -2.5, "\u00e9", null, true, {}], "b": 9223372036854775807}'
    expected = {"a": [1, -2.5, "é", None, True, {}], "b": 2**63 - 1}
    assert parse_json(text, "") == parse_json(text.encode(), "") == expected


def test_nothing_but_a_regular_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path} is not a regular file"):
            read_bytes(path)
        with pytest.raises(InputError, match=f"{path} is not a regular file"):
            regular_size(path)
    with pytest.raises(InputError, match="No such file"):
        read_json(tmp_path / "absent")
    with pytest.raises(InputError, match="null byte"):
        read_json(tmp_path / "a\0b")


def test_a_file_of_no_reasonable_size_is_not_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="1099511627776 bytes, expected no more"):
        read_json(tmp_path / "huge")


def test_a_file_takes_the_place_of_nothing_but_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "new", "new/new", tmp_path / "new"):
        check_file(name)
    for name in ("", ".", "..", "new/..", "/", tmp_path, "pipe", "/dev/null"):
        with pytest.raises(InputError, match="cannot be written as a file"):
            check_file(name)
    for name in ("x" * 300, f"{'x' * 300}/new"):
        with pytest.raises(InputError, match="File name too long"):
            check_file(name)
    with pytest.raises(
        InputError, match=r"cannot be written to, because .*file is not"
    ):
        check_file("file/new")
    # As for a device, which root could replace.
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="cannot be written as a file"):
            write_together({tmp_path / "new": b"1", path: b"2"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
