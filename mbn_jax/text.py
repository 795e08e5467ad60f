"""Text of others, made safe for a terminal."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

# C0 but for tab and newline, delete, C1, and the marks that turn the direction of text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replaces what a terminal would obey instead of showing, by its escape.

    Names of folders, identities and data sets are anybody's: one with an escape
    sequence could clear the screen or rename the window.

    Returns:
      The text with "\\x1b" in place of the escape character, and so on; a line feed and
      a tab stay as they are.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Replaces every character that has no shape of its own, by its escape.

    A name with a line feed could pass for another line of a table.

    Returns:
      The text with "\\n", "\\x1b", "\\u202e", "\\xa0" and so on in their places; an
      ordinary space stays.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )


class PrintableOutput(io.TextIOWrapper):
    """A stream in place of another one: what is written to it is made `printable`.

    Characters that its encoding does not have become question marks.

    Attributes:
      terminal: the other stream, for what draws with control sequences (`terminal_of`).
    """

    def __init__(self, stream: TextIO) -> None:
        """Writes to what the stream writes to."""
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="replace",
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )
        self.terminal = stream

    def write(self, text: str) -> int:
        """Writes text."""
        # Progress bars of libraries begin with it, to be drawn over the one before.
        start = "\r" if text.startswith("\r") else ""
        return super().write(start + printable(text.removeprefix("\r")))


def terminal_of(stream: TextIO) -> TextIO:
    """The stream for what has to draw on a terminal, such as rich."""
    return stream.terminal if isinstance(stream, PrintableOutput) else stream


@contextlib.contextmanager
def progress(
    doing: str, done: str, title: str, total: int, unit: str = "images"
) -> Iterator[Callable[[], None]]:
    """Shows on standard error how many of some things have been worked on.

    A bar on a terminal, and two lines anywhere else.

    Args:
      doing: for example "Rendering".
      done: for example "Rendered".
      title: what the things belong to.
      total: number of things.
      unit: what the things are.

    Yields:
      A function to call after each of them.
    """
    # Imported here: the network alone does without rich.
    import rich.console
    import rich.markup
    import rich.progress

    title = one_line(title)
    console = rich.console.Console(file=terminal_of(sys.stderr))
    if not console.is_terminal:
        print(f"{doing} {total} {unit} of {title}", file=sys.stderr)
        yield lambda: None
        print(f"{done} {total} {unit} of {title}", file=sys.stderr)
        return
    with rich.progress.Progress(
        f"{doing} [bold]{{task.fields[title]}}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    ) as bar:
        # A name in brackets is not markup.
        task = bar.add_task(doing, total=total, title=rich.markup.escape(title))
        yield lambda: bar.advance(task)
