"""What the commands have in common: options, who is asking, and the question before something is changed."""

import getpass
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cohort_pipelines.core.errors import ConfirmationNeeded
from cohort_pipelines.core.plain_text import shown

_Given = TypeVar("_Given", bound=str | Path | None)


def text(given: _Given) -> _Given:
    """Return what was ``given``, which a shell makes of any bytes, where it can be recorded and shown.

    Raises:
        BadParameter: it is not in UTF-8.
    """
    try:
        str(given or "").encode()
    except UnicodeEncodeError:
        problem = "it is not text in UTF-8"
        raise typer.BadParameter(problem) from None
    return given


ProjectFolder = Annotated[Path, typer.Option("--project", help="The project's folder.")]
Sync = Annotated[str, typer.Argument(callback=text, help="The sync's name.")]
Because = Annotated[str, typer.Option("--because", callback=text, help="Why, for readers of the record.")]
Who = Annotated[
    str, typer.Option("--who", callback=text, help="By whose word; user@host by default.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
SUPERSEDED = "Superseded: a newer audience has been delivered since. Nothing was sent."
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


class PlainTextConsole(Console):
    """A console that shows control characters as U+FFFD: names that a service gives could rewrite the screen."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is to be printed; the control codes of the console itself stay."""
        for segment in super().render(renderable, options):
            lines = segment.text.split("\n")
            yield segment if segment.control else segment._replace(text="\n".join(map(shown, lines)))


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it stands; where that is no terminal, tables have 120 columns."""
    made = PlainTextConsole(stderr=stderr, soft_wrap=True, markup=False, highlight=False)
    if not made.is_terminal:
        made.width = 120
    return made


_IN_DOUBT = (
    " {in_doubt:,} users are in doubt: an earlier request without a clear answer may still change them. The next "
    "delivery sends them again; where none is to come, run this again later, until nobody is."
)


def delivered(upload: Mapping[str, object]) -> str:
    """Return the sentence for the numbers of an overwrite."""
    numbers = "{users:,} users, {joiners:,} joined, {leavers:,} left, {requests:,} requests".format(**upload)
    return f"Delivered to {upload['target']!r}: {numbers}.{_IN_DOUBT.format(**upload) if upload['in_doubt'] else ''}"


def asking(who: str) -> str:
    """Return ``who``, or the user who runs this process."""
    return who or f"{_user()}@{socket.gethostname()}".encode(errors="replace").decode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container it may have no name; Python 3.13 changed which it is
        return f"uid {os.getuid()}"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is changed; a "no" ends the command.

    Raises:
        ConfirmationNeeded: there is no terminal to ask at.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfirmationNeeded(question)
    typer.confirm(question, abort=True)


def fail(problem: str) -> typer.Exit:
    """Say what went wrong, and return what ends the command."""
    console(stderr=True).print(problem, style="red")
    return typer.Exit(1)
