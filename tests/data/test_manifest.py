"""The table of a data set: what is read from it, and what is said of wrong ones."""

import os
import unicodedata

import pytest

from mbn_jax.data.manifest import (
    COLUMNS,
    Manifest,
    Row,
    number,
    read_manifest,
    write_manifest,
)
from mbn_jax.errors import InputError

HEADER = ",".join(COLUMNS)


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png", "Jörg, jr.png", "with space.png"):
        (tmp_path / name).write_bytes(b"not looked at")
    return tmp_path


def read(root, text, **options):
    path = root / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path, **options)


def sentences(findings):
    return [finding.sentence for finding in findings]


def test_rows_are_those_of_the_file(root):
    manifest, findings = read(root, f"{HEADER}\na.png,7,door,visible,train\n")
    assert manifest.rows == [Row("a.png", "7", "door", "visible", "train")]
    assert manifest.root == root
    assert not findings.problems
    assert not findings.warnings


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_and_line_ends_do_not_matter(root, mark, end):
    lines = [HEADER, "a.png,1,x,visible,train", "", "b.png,1,y,infrared,train", ""]
    manifest, findings = read(root, mark + end.join(lines).encode())
    assert [row.path for row in manifest.rows] == ["a.png", "b.png"]
    assert list(manifest.lines) == [2, 4]
    assert not findings.problems


def test_quoted_fields_spaces_and_other_alphabets_are_kept(root):
    text = f'{HEADER}\n"Jörg, jr.png"," Jörg ""J"" ", 北 ,visible,train\n'
    text += "with space.png,two words,x,visible,train\n"
    manifest, findings = read(root, text)
    assert manifest.rows[0] == Row("Jörg, jr.png", 'Jörg "J"', "北", "visible", "train")
    assert manifest.rows[1].identity == "two words"
    assert not findings.problems


def test_lines_are_counted_where_a_quoted_field_holds_a_line_end(root):
    text = f'{HEADER}\na.png,"one\ntwo",x,visible,train\nb.png,2,x,visible,no\n'
    _, findings = read(root, text)
    assert "line 4: the split 'no'" in sentences(findings.problems)[0]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_and_tabs_separate_fields_too(root, delimiter):
    text = f"{HEADER}\na.png,1,x,visible,train\n".replace(",", delimiter)
    manifest, findings = read(root, text)
    assert manifest.rows == [Row("a.png", "1", "x", "visible", "train")]
    assert not findings.problems


def test_names_of_one_person_in_two_forms_of_unicode_are_one(root):
    (root / unicodedata.normalize("NFD", "ü.png")).write_bytes(b"")
    decomposed = unicodedata.normalize("NFD", "Müller")
    text = f"{HEADER}\nü.png,Müller,x,visible,train\n"
    manifest, findings = read(root, text + f"a.png,{decomposed},x,visible,train\n")
    assert not findings.problems
    assert {row.identity for row in manifest.rows} == {"Müller"}
    assert (root / manifest.rows[0].path).is_file()


def test_columns_may_be_in_any_order_with_others_beside_them(root):
    text = "split,note,modality,camera,identity,Path\ntrain,hi,visible,x,1,a.png\n"
    manifest, findings = read(root, text)
    assert manifest.rows == [Row("a.png", "1", "x", "visible", "train")]
    assert sentences(findings.warnings) == ["The column note is ignored."]


def test_paths_are_relative_to_the_folder_of_images(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "m.csv").write_text(f"{HEADER}\na.png,1,x,visible,train\n")
    manifest, findings = read_manifest(other / "m.csv", root)
    assert manifest.root == root
    assert not findings.problems
    with pytest.raises(InputError, match="is not a folder; --images expects"):
        read_manifest(other / "m.csv", root / "absent")


def test_what_is_written_is_read_again(root):
    rows = [
        Row("Jörg, jr.png", 'Jörg "J"', "北\n2", "visible", "train"),
        Row("a.png", "7", "door", "infrared", "test"),
    ]
    write_manifest(root / "out.csv", rows)
    assert read_manifest(root / "out.csv")[0].rows == rows


def test_rows_are_sorted_by_split_and_otherwise_keep_their_order(root):
    text = f"{HEADER}\nc.png,1,x,visible,test\nb.png,2,x,visible,train\n"
    text += "a.png,3,x,visible,train\n"
    manifest, _ = read(root, text)
    assert [row.path for row in manifest.rows] == ["b.png", "a.png", "c.png"]
    assert list(manifest.lines) == [3, 4, 2]


WRONG_LINES = {
    "unknown split": ("a.png,1,x,visible,training", "the split 'training' is unknown"),
    "empty field": ("a.png,,x,visible,train", "the field identity is empty; fill it"),
    "two empty fields": ("a.png,1, ,,train", "the field camera, modality is empty"),
    "absent image": ("gone.png,1,x,visible,train", "there is no image"),
    "backslashes": (r"sub\a.png,1,x,visible,train", "with forward slashes"),
    "absolute path": ("/etc/passwd,1,x,visible,train", "/etc/passwd leaves the folder"),
    "path upwards": ("x/../../a.png,1,x,visible,train", "leaves the folder"),
    "too many fields": ("a.png,1,x,visible,train,more", "has 6 fields, but the header"),
    "too few fields": ("a.png,1", "has 2 fields, but the header has 5; quote"),
}


@pytest.mark.parametrize("case", WRONG_LINES)
def test_wrong_line_is_named_with_its_number(root, case):
    line, words = WRONG_LINES[case]
    text = f"{HEADER}\nb.png,1,x,visible,train\n{line}\n"
    manifest, findings = read(root, text)
    (sentence,) = sentences(findings.problems)
    assert sentence.startswith(f"{root / 'm.csv'}, line 3")
    assert words in sentence
    assert len(manifest.rows) == 1


def test_all_wrong_lines_are_named_at_once(root):
    lines = [line for line, _ in WRONG_LINES.values()]
    _, findings = read(root, "\n".join([HEADER, *lines]) + "\n")
    assert len(findings.problems) == len(lines)


def test_image_with_two_sets_of_labels_is_a_problem(root):
    text = f"{HEADER}\na.png,1,x,visible,train\n./a.png,2,x,visible,train\n"
    manifest, findings = read(root, text)
    (sentence,) = sentences(findings.problems)
    assert "line 3: the image a.png has other labels in line 2; remove" in sentence
    assert len(manifest.rows) == 1


def test_line_that_is_there_twice_is_used_once(root):
    text = f"{HEADER}\na.png,1,x,visible,train\na.png,1,x,visible,train\n"
    manifest, findings = read(root, text)
    assert not findings.problems
    assert (
        "line 3: the image a.png is listed in line 2" in findings.warnings[0].sentence
    )
    assert len(manifest.rows) == 1


def test_missing_columns_are_named_with_those_found(root):
    with pytest.raises(InputError, match=r"no column identity, split \(its first.*id"):
        read(root, "path,id,camera,modality\na.png,1,x,visible\n")
    with pytest.raises(InputError, match=r"\(its first line has: nothing\)"):
        read(root, "")
    with pytest.raises(InputError, match="has the column path twice"):
        read(root, f"path,{HEADER}\n")


def test_file_that_is_no_text_is_refused(root):
    with pytest.raises(InputError, match=r"is not UTF-8 text \(byte 0\); save it as"):
        read(root, f"{HEADER}\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"absent\.csv cannot be read \(No such file"):
        read_manifest(root / "absent.csv")
    os.mkfifo(root / "pipe.csv")  # to read it would wait forever
    with pytest.raises(InputError, match=r"pipe\.csv is not a regular file"):
        read_manifest(root / "pipe.csv")


def test_quote_that_is_not_closed_is_named_with_its_line(root):
    text = f'{HEADER}\na.png,1,x,visible,train\nb.png,"2,x,visible,train\n'
    _, findings = read(root, text + "c.png,3,x,visible,no\n")
    (sentence,) = sentences(findings.problems)
    assert "line 3 has 2 fields" in sentence
    assert "close every quote" in sentence
    long = "c.png,3,x,visible,train\n" * 9000
    _, findings = read(root, text.replace(",train", ",no", 1) + long)
    split, quote = sentences(findings.problems)
    assert "line 2: the split 'no'" in quote or "line 2: the split 'no'" in split
    assert any("line 3 and all that follow cannot be read" in s for s in (split, quote))


def test_path_that_no_file_system_can_hold_is_named_with_the_others(root):
    text = f"{HEADER}\n{'x' * 300}.png,1,x,visible,train\na.png,1,x,visible,no\n"
    _, findings = read(root, text)
    assert len(findings.problems) == 2
    assert "line 2: there is no image" in sentences(findings.problems)[0]


def test_modalities_with_color_come_first():
    names = ("thermal", "nir", "visible")
    rows = [Row(f"{name}.png", "1", "a", name, "train") for name in names]
    assert Manifest(rows=rows).modalities == ("visible", "nir", "thermal")


def test_whole_numbers_keep_their_values_and_other_texts_are_numbered():
    assert number(["0006", "12", "3"]) == {"0006": 6, "12": 12, "3": 3}
    assert number(["door", "12", "3"]) == {"12": 0, "3": 1, "door": 2}
    # Two texts of one value, and numbers beyond int32.
    assert number(["7", "007"]) == {"007": 0, "7": 1}
    assert number(["99999999999", "1"]) == {"1": 0, "99999999999": 1}
    assert number(["²", "1"]) == {"1": 0, "²": 1}
    assert number(["9" * 5000, "1"])["1"] == 0
