import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from cohort_pipelines.cli.tables import duration, history_lines, history_table
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.reporting.listing import Entry
from cohort_pipelines_tests.command_line import TAPLYTICS, Run, deliver, footprint

NOON = datetime(2026, 11, 22, 12, 0, 5, tzinfo=UTC)


def entry(**numbers: object) -> Entry:
    """Return a delivered window."""
    usual: dict[str, object] = {
        "window": "2026-11-22T1200Z",
        "kind": "overwrite",
        "state": "delivered",
        "at": NOON,
        "taken_at": NOON - timedelta(days=1),
        "members": 300,
        "identified": 280,
        "delivered": 276,
        "joiners": 3,
        "leavers": 2,
        "excluded": 24,
        "rejected": 0,
        "in_doubt": 1,
        "requests": 5,
        "seconds": 1.25,
        "run": "1a2b3c4d-5e6f-4a1b-8c2d-9e0f1a2b3c4d",
    }
    return Entry(**usual | numbers)  # type: ignore[arg-type]


def printed(*entries: Entry, width: int = 80) -> list[str]:
    console = Console(width=width, soft_wrap=True)
    with console.capture() as captured:
        console.print(history_table(entries))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_an_overwrite_is_shown_with_all_that_is_known_of_it() -> None:
    lines = printed(entry(restored_from="2026-10-31T0800Z"))

    assert lines[0].split() == ["window", "state", "members", "identified", "joiners", "rejected", "requests"]
    assert lines[1].split() == ["taken", "at", "took", "delivered", "excluded", "leavers", "in", "doubt", "run"]
    assert lines[2].split() == ["2026-11-22T1200Z", "delivered", "300", "280", "3", "0", "5"]
    assert lines[3].split() == ["2026-11-21", "12:00:05", "1.2s", "276", "24", "2", "1", "1a2b3c4d"]
    assert lines[4:] == ["from 2026-10-31T0800Z"]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_a_terminal_however_large_the_numbers(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("members", "identified", "delivered", "joiners", "leavers", "excluded", "rejected", "in_doubt", "requests")
    large = dict.fromkeys(names, 123_456_789)

    lines = printed(
        entry(**large, state="superseded", seconds=7_261.0, restored_from="2026-10-31T0800Z"), entry(), width=width
    )

    assert capsys.readouterr().err == ""
    assert max(len(line) for line in lines) <= 80
    assert lines[2].split() == ["2026-11-22T1200Z", "superseded", *["123.46M"] * 5]
    assert lines[3].split() == ["2026-11-21", "12:00:05", "2h", "01m", *["123.46M"] * 4, "1a2b3c4d"]
    assert len(lines) == 2 + 3 + 2


def test_the_long_name_of_an_export_takes_nothing_from_the_numbers() -> None:
    name = "x" * 64
    lines = printed(entry(window=name))

    assert max(len(line) for line in lines) <= 80
    assert "".join(line.partition(" ")[0] for line in lines[2:]).startswith(name)
    assert lines[2].split()[1:] == ["delivered", "300", "280", "3", "0", "5"]


def test_a_number_that_is_not_known_is_left_blank() -> None:
    missed = Entry(window="2026-11-22T1215Z", state="missed", at=NOON)

    assert [line.split() for line in printed(missed)[2:]] == [["2026-11-22T1215Z", "missed"]]


def test_what_needs_a_sentence_stands_below_the_table() -> None:
    lines = history_lines(
        [
            entry(),
            entry(restored_from="2026-11-22T0800Z", approved={"who": "kim", "why": "a campaign ended", "at": "now"}),
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
    lines = [line.rstrip() for line in shown.out.splitlines()]
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[:2] for line in lines[2:4]] == [[missed, "missed"], [outcome.partition_key, "delivered"]]
    assert lines[4].split()[:2] == str(datetime.fromisoformat(listed[1]["taken_at"])).split(".")[0].split()
    assert lines[4].endswith(outcome.run_id[:8])
    assert lines[5:] == [f"{missed} missed: no run was started in it"]
    assert [each["state"] for each in listed] == ["missed", "delivered"]
    assert (listed[1]["run"], listed[1]["members"], listed[1]["identified"]) == (outcome.run_id, 300, 276)
    assert (listed[1]["delivered"], listed[1]["excluded"]) == (276, 24)
    assert datetime.fromisoformat(listed[1]["taken_at"]).utcoffset() == timedelta(0)
    assert run("history", TAPLYTICS, "--limit", "1", "--json").out.count('"window"') == 1
