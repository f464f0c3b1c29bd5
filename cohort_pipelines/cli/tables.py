"""How plans and histories look on a terminal, also on one of 80 columns."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from cohort_pipelines.delivery import Preview
from cohort_pipelines.ledger import GREEN_STATES, AttemptKind
from cohort_pipelines.orchestration import Budget, Plan
from cohort_pipelines.reporting import Entry

_PAIRS = (("members", "delivered"), ("identified", "excluded"), ("joiners", "leavers"), ("rejected", "in_doubt"))
_MOMENT_WIDTH = len("2026-11-22 12:00:00")
_SHORT_RUN = 8  # as long as Dagster's UI shows it
_STYLES = {"delivered": "green", "accepted": "green", "deferred": "yellow", "skipped": "yellow", "open": "cyan"}
_NEUTRAL = {"superseded": "dim", "planned": "cyan", "sending": "cyan", "sent": "cyan"}
_MILLION = 1_000_000


def history_table(entries: Sequence[Entry]) -> Table:
    """Return the list of overwrites and windows, two lines each: in one line they would need 160 columns.

    It has at most 80 columns; only the long name of an export takes more, or is folded where there are none.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("window\ntaken at", overflow="fold", min_width=_MOMENT_WIDTH)
    table.add_column("state\ntook", no_wrap=True)
    for above, below in (*_PAIRS, ("requests", "run")):
        table.add_column(f"{above}\n{below}".replace("_", " "), justify="right", no_wrap=True)
    for each in entries:
        table.add_row(*_stacked(each))
    return table


def _stacked(entry: Entry) -> Iterator[Text]:
    """Yield the cells of an entry, each with one value above another; a restore has a third line."""
    style = _STYLES.get(entry.state) or _NEUTRAL.get(entry.state) or "red"
    taken_at = f"{entry.taken_at:%Y-%m-%d %H:%M:%S}" if entry.taken_at else ""
    restored_from = f"from {entry.restored_from}" if entry.restored_from else ""
    yield _cell(Text(entry.window), taken_at, restored_from)
    yield _cell(Text(entry.state, style=style), "" if entry.seconds is None else duration(entry.seconds))
    for above, below in _PAIRS:
        yield _cell(Text(_short(getattr(entry, above))), _short(getattr(entry, below)))
    yield _cell(Text(_short(entry.requests)), (entry.run or "")[:_SHORT_RUN])


def _cell(above: Text, *below: str) -> Text:
    return Text("\n").join([above, *(Text(text) for text in below if text)])


def history_lines(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield what needs a sentence: restores, approvals, and why something is not green."""
    for each in entries:
        said = []
        if each.restored_from:
            said.append(f"restored from {each.restored_from}")
        if each.kind == AttemptKind.RETIRE:
            said.append("the target was given up")
        if each.approved:
            said.append(f"let through the gates by {each.approved['who']}: {each.approved['why']}")
        if each.reason and each.state not in GREEN_STATES:
            said.append(each.reason)
        if said:
            yield f"{each.window} {each.state}: {'; '.join(said)}"


def plan_table(planned: Plan) -> Table:
    """Return what would be delivered, line by line."""
    shown, table = planned.preview, Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in _lines(planned, shown):
        table.add_row(name, Text(text))
    return table


def _lines(planned: Plan, shown: Preview) -> Iterator[tuple[str, str]]:
    counts = shown.counts
    yield "sync", f"{planned.sync}, {_window(planned)}"
    yield "snapshot", f"{planned.members:,} members, {_taken(planned)}"
    yield "identified", f"{planned.identified:,}"
    yield "excluded", _excluded(planned.excluded)
    yield "payload", f"{shown.users:,} users for {shown.target!r}{', its first' if shown.first else ''}"
    yield "joiners", f"{counts.joiners:,}"
    yield "leavers", f"{counts.leavers:,}"
    yield "unchanged", f"{shown.unchanged:,}"
    yield "repeated", f"{counts.repeated:,}, since {shown.in_doubt:,} are in doubt"
    yield "reconciled", f"{counts.reconciled:,}"
    yield "requests", f"{shown.requests:,} for {counts.operations:,} changes"
    yield "time", _time(shown)
    yield "cadence", _cadence(shown)
    yield "Mixpanel", _budget(planned.budget)
    held = [verdict.name for verdict in shown.verdicts if verdict.held]
    yield "gates", f"held by {', '.join(held)}" if held else f"{len(shown.verdicts)} passed"
    yield from (("", f"{each.name}: {each.finding}") for each in shown.verdicts if not each.held)
    if shown.under_way:
        yield "under way", "a delivery is being made just now; what it still does is not in these numbers"


def _window(planned: Plan) -> str:
    if planned.one_time:
        return f"export {planned.window}" if planned.sealed else planned.window
    return f"window {planned.window}"


def _taken(planned: Plan) -> str:
    how = "sealed, no query made" if planned.sealed else f"read now, {many(planned.budget.spent, 'query', 'queries')}"
    return f"taken at {planned.taken_at:%Y-%m-%d %H:%M:%S} UTC ({how})"


def _excluded(excluded: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in excluded.items())
    return f"{sum(excluded.values()):,}" + (f" ({reasons})" if reasons else "")


def _time(shown: Preview) -> str:
    pace = (
        "at the pace of its recent deliveries" if shown.pace.measured else "at an assumed pace, none was measured yet"
    )
    reading = f", after {duration(shown.pace.reading_seconds)} of reading" if shown.pace.reading_seconds else ""
    return f"about {duration(shown.forecast.seconds)} of sending {pace}{reading}"


def _cadence(shown: Preview) -> str:
    forecast = shown.forecast
    if forecast.capacity is None:
        return "a one-time export"
    fits = "kept" if forecast.keeps_cadence else f"not kept: it takes {forecast.windows:,} windows, each going on"
    usual = shown.pace.usual_change
    room = f"; a window has room for {forecast.capacity:,} changes" + (f", {usual:,} are usual" if usual else "")
    return fits + room + (", which is less than twice as many: TIGHT" if forecast.tight else "")


def _budget(budget: Budget) -> str:
    def of(queries: float) -> str:
        return f"{queries:g} queries an hour ({queries / budget.granted:.0%})"

    return f"of {budget.granted:,}: this sync {of(budget.sync)}, its whole project {of(budget.project)}"


def duration(seconds: float) -> str:
    """Return a time in words that are short: ``4.2s``, ``3m 20s``, ``2h 05m``."""
    minute, hour = 60, 3600
    if seconds < minute:
        return f"{seconds:.1f}s"
    if seconds < hour:
        return f"{int(seconds // minute)}m {int(seconds % minute):02}s"
    return f"{int(seconds // hour)}h {int(seconds % hour // minute):02}m"


def many(count: int, one: str, more: str) -> str:
    """Return a number with its word: ``1 query``, ``2 queries``."""
    return f"{count:,} {one if count == 1 else more}"


def _short(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number:,}" if number < _MILLION else f"{number / _MILLION:.2f}M"
