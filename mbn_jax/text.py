"""What a terminal shows: text from outside made safe, and progress."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

# C0 except tab and line feed, delete, C1, and marks that change the text direction.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Escapes control characters, except line feeds and tabs.

    A folder, an identity or a data set may have any name. One with an escape sequence
    could clear the screen or rename the window; it is shown as "\\x1b" and so on.
    """
    return _UNSEEN.sub(lambda found: _escape(found[0]), text)


def one_line(text: str) -> str:
    """Escapes every character that is not printable, such as "\\n" and "\\xa0".

    A name with a line feed could otherwise pass for another line of a table.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class PrintableOutput(io.TextIOWrapper):
    """A stream that makes text `printable` and writes it to another stream's buffer.

    Characters that the encoding does not have become question marks.

    Attributes:
      terminal: the other stream, for programs that draw with control sequences.
    """

    def __init__(self, stream: TextIO) -> None:
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
        # Progress bars of libraries begin with it, to overwrite the one before.
        start = "\r" if text.startswith("\r") else ""
        return super().write(start + printable(text.removeprefix("\r")))


def terminal_of(stream: TextIO) -> TextIO:
    """Returns the stream for libraries that draw on a terminal, such as rich."""
    return stream.terminal if isinstance(stream, PrintableOutput) else stream


@contextlib.contextmanager
def progress(
    doing: str, done: str, title: str, total: int, unit: str = "images"
) -> Iterator[Callable[[], None]]:
    """Shows progress on standard error: a bar on a terminal, two lines elsewhere.

    Args:
      doing: for example "Rendering".
      done: for example "Rendered".
      title: for example the name of the data set.
      total: number of items.
      unit: the items, in plural.

    Yields:
      A function to call after each item.
    """
    # Imported here, because a network alone does not need rich.
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
