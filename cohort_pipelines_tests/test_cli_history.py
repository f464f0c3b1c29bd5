import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from cohort_pipelines.cli_tables import duration, history_lines, history_table
from cohort_pipelines.delivery import Ledger
from cohort_pipelines.delivery.listing import Entry
from cohort_pipelines_tests.command_line import TAPLYTICS, Run, deliver, footprint

NOON = datetime(2026, 11, 22, 12, 0, 5, tzinfo=UTC)


def entry(**numbers: object) -> Entry:
    """Return a delivered window."""
    usual: dict[str, object] = {
        "window": "2026-11-22T1200Z",
        "kind": "overwrite",
        "state": "delivered",
        "at": NOON,
        "taken_at": NOON,
        "members": 300,
        "delivered": 276,
        "joiners": 3,
        "leavers": 2,
        "rejects": 24,
        "refused": 0,
        "unsettled": 0,
        "requests": 5,
        "seconds": 1.25,
    }
    return Entry(**usual | numbers)  # type: ignore[arg-type]


def printed(*entries: Entry) -> list[str]:
    console = Console(width=120, soft_wrap=True)
    with console.capture() as captured:
        console.print(history_table(entries))
    return captured.get().splitlines()


def test_the_table_fits_a_terminal_of_120_columns_however_large_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    large = dict.fromkeys(("members", "delivered", "joiners", "leavers", "rejects", "refused"), 123_456_789)
    lines = printed(entry(**large, unsettled=999_999, requests=10_000_000, state="superseded", seconds=7_261.0))

    assert capsys.readouterr().err == ""
    assert max(len(line) for line in lines) <= 120
    assert lines[0].split() == [
        *("window", "state", "taken", "at", "members", "delivered", "joiners", "leavers", "rejects"),
        *("refused", "unsettled", "requests", "took"),
    ]
    assert lines[1].split() == [
        *("2026-11-22T1200Z", "superseded", "12:00:05", *["123.46M"] * 6, "999,999", "10.00M", "2h", "01m")
    ]


def test_a_number_that_is_not_known_is_left_blank() -> None:
    missed = Entry(window="2026-11-22T1215Z", state="missed", at=NOON)

    assert printed(missed)[1].split() == ["2026-11-22T1215Z", "missed"]


def test_what_does_not_fit_into_the_table_stands_below_it() -> None:
    lines = history_lines(
        [
            entry(),
            entry(restored_from="2026-11-22T0800Z", released={"who": "kim", "why": "a campaign ended", "at": "now"}),
            entry(state="missed", reason="no run was started in it"),
            entry(kind="retire"),
        ]
    )

    assert list(lines) == [
        "2026-11-22T1200Z delivered: restored from 2026-11-22T0800Z; let through the gates by kim: a campaign ended",
        "2026-11-22T1200Z missed: no run was started in it",
        "2026-11-22T1200Z delivered: the target was given up",
    ]


@pytest.mark.parametrize(("seconds", "words"), [(0.04, "0.0s"), (59.94, "59.9s"), (200, "3m 20s"), (7_500, "2h 05m")])
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.usefixtures("standins")
def test_before_the_first_window_there_is_nothing_to_list_and_nothing_is_made(run: Run, demo_folder: Path) -> None:
    before = footprint(demo_folder)

    assert run("history", TAPLYTICS).out == "No window of this sync was begun yet.\n"
    assert run("history", TAPLYTICS, "--json").out == "[]\n"
    refused = run("history", "nobodys_list")

    assert (refused.code, refused.err.split(":")[0]) == (1, "SyncUnknown")
    assert footprint(demo_folder) == before


@pytest.mark.slow
@pytest.mark.usefixtures("standins")
def test_overwrites_and_missed_windows_are_listed_for_people_and_for_machines(run: Run, demo_folder: Path) -> None:
    outcome = deliver(demo_folder, TAPLYTICS, back=1)
    ledger = Ledger(f"sqlite:///{demo_folder}/data/ledger.sqlite")
    missed = (datetime.now(UTC) + timedelta(hours=24)).strftime("%Y-%m-%dT%H00Z")
    ledger.note_window(TAPLYTICS, missed, "missed", "no run was started in it")

    shown, listed = run("history", TAPLYTICS), json.loads(run("history", TAPLYTICS, "--json").out)

    assert (shown.code, shown.err) == (0, "")
    assert max(len(line) for line in shown.out.splitlines()) <= 120
    assert [line.split()[:2] for line in shown.out.splitlines()[1:3]] == [
        [missed, "missed"],
        [outcome.partition_key, "delivered"],
    ]
    assert shown.out.splitlines()[3] == f"{missed} missed: no run was started in it"
    assert [each["state"] for each in listed] == ["missed", "delivered"]
    assert (listed[1]["run"], listed[1]["members"], listed[1]["identified"]) == (outcome.run_id, 300, 276)
    assert (listed[1]["delivered"], listed[1]["rejects"]) == (276, 24)
    assert datetime.fromisoformat(listed[1]["taken_at"]).utcoffset() == timedelta(0)
    assert run("history", TAPLYTICS, "--limit", "1", "--json").out.count('"window"') == 1
