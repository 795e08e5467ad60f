"""A bar on a terminal, and two lines anywhere else."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import rich.console
import rich.markup
import rich.progress

from mbn_jax.text import one_line, terminal_of


@contextlib.contextmanager
def progress(
    doing: str, done: str, title: str, total: int, unit: str = "images"
) -> Iterator[Callable[[], None]]:
    """Shows on standard error how many of some things have been worked on.

    Args:
        doing: for example "Rendering".
        done: for example "Rendered".
        title: what the things belong to.
        total: number of things.
        unit: what the things are.

    Yields:
        What is to be called after each.
    """
    title = one_line(title)
    console = rich.console.Console(file=terminal_of(sys.stderr))
    if not console.is_terminal:
        print(f"{doing} {total} {unit} of {title}", file=sys.stderr)
        yield lambda: None
        print(f"{done} {total} {unit} of {title}", file=sys.stderr)
        return
    bar = rich.progress.Progress(
        f"{doing} [bold]{{task.fields[title]}}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    with bar:
        # A name in brackets is not markup.
        task = bar.add_task(doing, total=total, title=rich.markup.escape(title))
        yield lambda: bar.advance(task)
