"""A bar on a terminal, and two lines anywhere else."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


@contextlib.contextmanager
def progress(
    doing: str, done: str, title: str, total: int
) -> Iterator[Callable[[], None]]:
    """Shows on standard error how many of some images have been worked on.

    Args:
        doing: for example "Rendering".
        done: for example "Rendered".
        title: what the images belong to.
        total: number of images.

    Yields:
        What is to be called after each image.
    """
    console = rich.console.Console(file=sys.stderr)
    if not console.is_terminal:
        print(f"{doing} {total} images of {title}", file=sys.stderr)
        yield lambda: None
        print(f"{done} {total} images of {title}", file=sys.stderr)
        return
    bar = rich.progress.Progress(
        f"{doing} [bold]{{task.fields[title]}}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    with bar:
        task = bar.add_task(doing, total=total, title=title)
        yield lambda: bar.advance(task)
