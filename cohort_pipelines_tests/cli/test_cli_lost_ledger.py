"""The ledger is gone, or nobody can tell whether it is the right one: no command says all is well, or makes a new one.

Where it is gone, the history tells of deliveries.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from cohort_pipelines.core.files import Stage
from cohort_pipelines.history import History
from cohort_pipelines.recovery import pairing
from cohort_pipelines_tests.command_line import TAPLYTICS, Run, footprint
from cohort_pipelines_tests.faults.disks import denied

pytestmark = pytest.mark.usefixtures("standins")


def marked(history: History) -> None:
    pairing.mark(history, "the lost one", 1)


def of_the_first_release(history: History) -> None:
    history.write(TAPLYTICS, Stage.RECEIPT, "2026-11-22T1200Z", pa.table({"state": ["delivered"]}))


@pytest.mark.slow
@pytest.mark.parametrize("left", [marked, of_the_first_release])
@pytest.mark.parametrize(
    "command",
    [
        ("history", TAPLYTICS),
        ("pause", TAPLYTICS, "--because", "x"),
        ("resume", TAPLYTICS),
        ("approve", TAPLYTICS, "--because", "x", "--min-users", "1", "--max-users", "5", "--until", "2090-01-01"),
        ("plan", TAPLYTICS, "--sealed"),
        ("restore", TAPLYTICS, "2026-11-22T1200Z", "--yes"),
        ("retarget", TAPLYTICS, "--yes"),
        ("retire", TAPLYTICS, "--yes"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_refuses_and_none_makes_a_ledger(
    run: Run, demo_folder: Path, command: tuple[str, ...], left: Callable[[History], None]
) -> None:
    left(History(demo_folder / "data" / "history"))
    before = footprint(demo_folder / "data")

    refused = run(*command)

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(
        f"LedgerUnpaired: The ledger at {demo_folder}/data/ledger.sqlite cannot be used: it is gone"
    )
    assert "cohort-pipelines ledger rebuild" in refused.err
    assert footprint(demo_folder / "data") == before


def test_a_history_that_cannot_be_read_is_one_sentence(
    run: Run, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFileSystem, "ls", denied)

    refused, checked = run("history", TAPLYTICS), run("check")

    assert (refused.code, refused.out) == (1, "")
    sentence = refused.err.removeprefix("HistoryNotReadable: ").rstrip()
    assert sentence.startswith(f"The history could not be read at {demo_folder}/data/history/: Permission denied. ")
    assert (checked.code, checked.findings["history"]) == (1, sentence)


def test_in_a_fresh_project_what_writes_nothing_makes_nothing(run: Run, demo_folder: Path) -> None:
    before = footprint(demo_folder)

    assert run("history", TAPLYTICS).out == "No window of this sync was begun yet.\n"
    assert run("resume", TAPLYTICS).out == f"{TAPLYTICS} was not paused.\n"
    assert footprint(demo_folder) == before
    assert run("pause", TAPLYTICS, "--because", "x").code == 0
    assert run("resume", TAPLYTICS).out == f"{TAPLYTICS} is resumed; its next window delivers.\n"
