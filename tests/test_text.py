"""Names of others on a terminal: shown, and never obeyed."""

import io

import pytest

from mbn_jax.data.findings import Findings
from mbn_jax.text import PrintableOutput, one_line, printable, progress, terminal_of

CLEAR = "a\x1b[2Jb"  # clears the screen


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CLEAR, r"a\x1b[2Jb"),
        ("a\rb", r"a\rb"),
        ("a\x7f\x9b\x00", r"a\x7f\x9b\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("två → 図 [bold]\t$x$\n", "två → 図 [bold]\t$x$\n"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert printable(text) == shown


def test_a_name_has_one_line():
    assert one_line("két → 図 [b]") == "két → 図 [b]"
    assert one_line("a\n\tb\u2028\udcff\x1b") == r"a\n\tb\u2028\udcff\x1b"


def output(encoding):
    raw = io.BytesIO()
    return raw, PrintableOutput(io.TextIOWrapper(raw, encoding=encoding))


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"??"), ("latin-1", b"?\xb1")]
)
def test_characters_that_an_encoding_lacks_become_question_marks(encoding, shown):
    raw, stream = output(encoding)
    print(f"→±{CLEAR}", file=stream, flush=True)
    assert raw.getvalue() == shown + rb"a\x1b[2Jb" + b"\n"


def test_bars_of_libraries_are_drawn_over_the_one_before():
    raw, stream = output("utf-8")
    stream.write("\r 50 %")
    stream.flush()
    assert raw.getvalue() == b"\r 50 %"
    assert terminal_of(stream) is stream.terminal
    assert terminal_of(stream.terminal) is stream.terminal


def test_a_name_in_brackets_is_no_markup_of_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress("Reading", "Read", f"[red]x[/nothing]{CLEAR}\nRead", 1) as advance:
        advance()
    assert "[red]x[/nothing]a\\x1b[2Jb\\nRead" in terminal.getvalue()
    assert CLEAR not in terminal.getvalue()


def test_no_name_begins_a_line_of_a_report(capsys):
    findings = Findings()
    findings.problem("names", "the identity a\nproblem: b is unknown")
    findings.report()
    with progress("Reading", "Read", "a\nRead 9", 1):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "problem: the identity a\\nproblem: b is unknown",
        "Reading 1 images of a\\nRead 9",
        "Read 1 images of a\\nRead 9",
    ]
