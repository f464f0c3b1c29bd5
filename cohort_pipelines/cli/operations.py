"""Commands by which a person steps in: pause, approve, restore, retarget, retire. The ledger records each."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cohort_pipelines.cli.options import (
    SUPERSEDED,
    Because,
    ProjectFolder,
    Sync,
    Who,
    Yes,
    asking,
    confirm,
    console,
    delivered,
    fail,
    text,
)

if TYPE_CHECKING:
    from cohort_pipelines.ledger import HeldAttempt
    from cohort_pipelines.orchestration import OpenProject, ResolvedSync

Forget = Annotated[
    bool,
    typer.Option("--forget", help="Leave the members of its target where they are, since nothing declared reaches it."),
]

_DAY = timedelta(days=1)
_MOST_USERS = 1_000_000_000  # a ledger's number holds twice as many

app = typer.Typer()
ledger_app = typer.Typer(no_args_is_help=True, help="Look after the ledger.")
app.add_typer(ledger_app, name="ledger")


@app.command()
def pause(sync: Sync, because: Because, who: Who = "", project: ProjectFolder = Path()) -> None:
    """Send nothing for a sync until it is resumed; a delivery under way ends between two chunks."""
    from cohort_pipelines.core.settings import history_root
    from cohort_pipelines.history import History
    from cohort_pipelines.ledger import pauses
    from cohort_pipelines.orchestration import fitting_ledger, launch, own_ledger
    from cohort_pipelines.recovery import pairing

    with launch.within(project) as package:
        launch.require_known(sync, package, fitting_ledger())
        ledger = own_ledger()
        pauses.pause(ledger, sync, who=asking(who), why=because)
        pairing.refuse_older_copies(ledger, History(history_root()))
    console().print(f"{sync} is paused. Nothing is sent for it until: cohort-pipelines resume {sync}")


@app.command()
def resume(sync: Sync, project: ProjectFolder = Path()) -> None:
    """Let a paused sync deliver again, from its next window or export on."""
    from cohort_pipelines.core.settings import history_root
    from cohort_pipelines.history import History
    from cohort_pipelines.ledger import pauses
    from cohort_pipelines.orchestration import fitting_ledger, launch
    from cohort_pipelines.recovery import pairing

    with launch.within(project) as package:
        ledger = fitting_ledger()
        launch.require_known(sync, package, ledger)
        was_paused = ledger is not None and pauses.resume(ledger, sync)
        if ledger is not None and was_paused:
            pairing.refuse_older_copies(ledger, History(history_root()))
        turn = _turn(launch.sync_called(sync, package))
    said = f"is resumed; its next {turn} delivers" if was_paused else "was not paused"
    console().print(f"{sync} {said}.")


@app.command()
def approve(
    sync: Sync,
    *,
    because: Because,
    min_users: Annotated[
        int | None, typer.Option(min=0, max=_MOST_USERS, help="Any payload of at least so many users ...")
    ] = None,
    max_users: Annotated[int | None, typer.Option(min=0, max=_MOST_USERS, help="... and at most so many ...")] = None,
    until: Annotated[str, typer.Option(help="... until this moment, ISO 8601; UTC unless it says so.")] = "",
    later: Annotated[bool, typer.Option("--later", help="Only record it; do not deliver now.")] = False,
    who: Who = "",
    project: ProjectFolder = Path(),
) -> None:
    """Let the payload that a gate holds pass, and deliver it now; or any payload of a size, until a moment.

    What a restore was held at is put back.
    """
    from cohort_pipelines.core.errors import NothingHeld
    from cohort_pipelines.ledger import AttemptKind, approvals
    from cohort_pipelines.orchestration import launch, operations, own_ledger

    with launch.opened(project) as opened:
        ledger, name = own_ledger(), opened.sync(sync).name
        held, by_size = approvals.held(ledger, name), min_users is not None or max_users is not None
        if held is None and not by_size:
            raise NothingHeld(name)
        shown = None if by_size else held  # not what is held by the time that it is recorded
        made = approvals.approve(
            ledger,
            name,
            who=asking(who),
            why=because,
            payload_checksum=shown.payload_checksum if shown else None,
            min_users=min_users,
            max_users=max_users,
            until=_moment(until),
        )
        what = f"the payload of {_origin(shown)}" if shown else "payloads of that size"
        console().print(f"{name}: {what} may pass the gates until {made.until:%Y-%m-%d %H:%M} UTC.")
        if held is None or later:
            return
        if by_size and not (min_users or 0) <= held.users <= (held.users if max_users is None else max_users):
            return
        if held.kind is AttemptKind.RESTORE:
            again = {"sync": name, "window": _origin(held), "payload": held.payload_checksum}
            _operate(opened, operations.RESTORE, again)
            _say_newest(name)
            return
        outcome = launch.run_sync(opened, name, held.window, stages=["destination_upload"])
    if outcome.error or not outcome.upload:
        raise fail(outcome.error or SUPERSEDED)
    console().print(delivered(outcome.upload))


@app.command()
def restore(
    sync: Sync,
    window: Annotated[
        str, typer.Argument(callback=text, help="The window or export whose audience is put back, see `history`.")
    ],
    *,
    pause_too: Annotated[bool, typer.Option("--pause", help="Pause the sync in the same transaction.")] = False,
    because: Annotated[
        str, typer.Option("--because", callback=text, help="Why it is paused; needed with --pause.")
    ] = "",
    who: Who = "",
    yes: Yes = False,
    project: ProjectFolder = Path(),
) -> None:
    """Put the audience of an earlier window back: show the difference, ask, deliver it behind the same gates."""
    from cohort_pipelines.cli.looking import print_plan
    from cohort_pipelines.orchestration import launch, operations, planning

    if pause_too and not because:
        problem = "--pause needs --because, for readers of `history`."
        raise typer.BadParameter(problem)
    if not pause_too and (because or who):
        problem = "--because and --who go with --pause: nothing else of a restore keeps them."
        raise typer.BadParameter(problem)
    with launch.opened(project) as opened:
        print_plan(planning.plan_restore(opened, sync, window))
        if not pause_too:
            turn = _turn(opened.sync(sync))
            console().print(f"The next {turn} delivers the cohort as it is then, unless the sync is paused: --pause")
        confirm(f"Put the audience of {window} back?", yes=yes)
        wanted = {"sync": sync, "window": window, "pause": pause_too, "who": asking(who)}
        _operate(opened, operations.RESTORE, wanted | ({"because": because} if because else {}))
        _say_newest(sync)


@app.command()
def retarget(sync: Sync, forget: Forget = False, yes: Yes = False, project: ProjectFolder = Path()) -> None:
    """After a sync was pointed elsewhere: empty its old target. After it was renamed: take the target over."""
    from cohort_pipelines.orchestration import launch, operations, planning

    with launch.opened(project) as opened:
        moves = planning.plan_move(opened, sync, forget=forget)
        for move in moves:
            console().print(move)
        if not moves:
            console().print(f"{sync} owns the target that it is declared for, and no other. There is nothing to do.")
            return
        confirm(f"Do this for {sync}?", yes=yes)
        _operate(opened, operations.RETARGET, {"sync": sync, "forget": forget})
    console().print(f"{sync} owns the target that it is declared for, and no other.")


@app.command()
def retire(
    sync: Annotated[str, typer.Argument(callback=text, help="The sync's name; it need not be declared any more.")],
    forget: Forget = False,
    who: Who = "",
    yes: Yes = False,
    project: ProjectFolder = Path(),
) -> None:
    """End a sync: empty its target of everybody that was ever sent to it, and give it up."""
    from cohort_pipelines.orchestration import launch, operations, planning

    with launch.opened(project) as opened:
        for leaving in planning.plan_retirement(opened, sync, forget=forget):
            console().print(leaving)
        confirm(f"Retire {sync}?", yes=yes)
        _operate(opened, operations.RETIRE, {"sync": sync, "forget": forget, "who": asking(who)})
    console().print(f"{sync} is retired. Remove its folder under defs if it is still there.")


@ledger_app.command()
def rebuild(
    *,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Go on without ids that no file names any more: they stay at the partner."),
    ] = False,
    yes: Yes = False,
    project: ProjectFolder = Path(),
) -> None:
    """Make a lost, older or doubled ledger the history's own again: every id found there is maybe delivered."""
    from cohort_pipelines.cli.tables import many
    from cohort_pipelines.core.settings import history_root, ledger_url
    from cohort_pipelines.history import History
    from cohort_pipelines.ledger import Ledger
    from cohort_pipelines.orchestration import launch
    from cohort_pipelines.recovery import rebuild as rebuild_ledger

    with launch.within(project):
        question = (
            "Stop whatever delivers: daemon, webserver and exports. Rebuild the ledger from the history? The next "
            "deliveries then send every id again."
        )
        confirm(question, yes=yes)
        done = rebuild_ledger(Ledger(ledger_url()), History(history_root()), forget=forget)
    console().print(
        f"The ledger knows {many(done.targets, 'target', 'targets')} again, from {many(done.files, 'file', 'files')}; "
        f"{many(done.ids, 'id is', 'ids are')} maybe delivered, and the next deliveries send or remove them again."
    )
    if done.left_out:
        console().print(f"{many(done.left_out, 'file was', 'files were')} damaged and left out.", style="red")
    if done.forgotten:
        console().print(
            f"Of the ids that targets may hold, up to {done.forgotten:,} are named by no file any more. Nothing here "
            "removes them: look after them at the partner.",
            style="red",
        )
    if done.unmeasured:
        console().print(
            f"Of {many(done.unmeasured, 'target', 'targets')} no receipt tells what was delivered last. Gates count "
            "every id there as held: if one holds an ordinary audience, let it go with `cohort-pipelines approve`."
        )
    console().print("Pauses and open approvals stand in no history: pause or approve again what a lost ledger had.")


def _operate(project: "OpenProject", job: str, config: Mapping[str, object]) -> None:
    from cohort_pipelines.ledger import pauses
    from cohort_pipelines.orchestration import launch, own_ledger

    try:
        error = launch.run_operation(project, job, config)
    except KeyboardInterrupt:  # an error says it itself
        if pauses.paused(own_ledger(), sync := str(config["sync"])):
            console(stderr=True).print(f"{sync} is paused; cohort-pipelines resume {sync} lets it deliver again.")
        raise
    if error:
        raise fail(error)


def _turn(sync: "ResolvedSync | None") -> str:
    """Return the word for when the sync delivers next."""
    if sync is None:
        return "window or export"
    return "window" if sync.cadence else "export"


def _origin(held: "HeldAttempt") -> str:
    """Return the window that a held payload comes from."""
    return held.restored_from or held.window


def _say_newest(sync: str) -> None:
    from cohort_pipelines.cli.tables import history_lines, history_table
    from cohort_pipelines.orchestration import fitting_ledger
    from cohort_pipelines.reporting import entries

    ledger = fitting_ledger()
    newest = entries(ledger, sync, 1) if ledger else []
    console().print(history_table(newest))
    for line in history_lines(newest):
        console().print(line)


def _moment(given: str) -> datetime | None:
    if not given:
        return None
    try:
        moment = datetime.fromisoformat(given)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment + _DAY - _DAY  # as a database may tell it, in any time zone
    except ValueError:
        problem = f"{given!r} is no moment such as 2026-11-23T18:00"
    except OverflowError:
        problem = f"{given!r} is a moment that no ledger can keep"
    raise typer.BadParameter(problem, param_hint="--until")
