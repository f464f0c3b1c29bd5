import os
import pwd
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy import select

from cohort_pipelines import history
from cohort_pipelines.cli import operations
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.ledger import Ledger, Target
from cohort_pipelines.ledger.pauses import pause
from cohort_pipelines.orchestration import launch
from cohort_pipelines_tests.command_line import APPTIMIZE, LAUNCH_LIST, TAPLYTICS, Run, deliver, few_members
from cohort_pipelines_tests.disks import no_temporary_folder

NOT_TEXT = os.fsdecode(b"caf\xe9")  # as a shell hands over what is not in UTF-8

pytestmark = pytest.mark.usefixtures("at_opening")


@pytest.fixture(autouse=True)
def _empty_partners(standins: InThread) -> None:
    standins.standins.taplytics.users.clear()
    standins.standins.apptimize.groups.clear()


def segment(standins: InThread, name: str = "Beta Users") -> set[str]:
    return set(standins.standins.taplytics.members(name))


def payload(folder: Path, sync: str, window: str) -> set[str]:
    return set(history.read(sync, "partner_payload", window, root=folder / "data" / "history")["partner_user_id"])


@pytest.mark.slow
def test_a_paused_sync_sends_nothing_until_it_is_resumed(run: Run, demo_folder: Path) -> None:
    assert run("pause", TAPLYTICS, "--because", "holidays", "--who", "kim").code == 0

    checked, stopped = run("check"), deliver(demo_folder, TAPLYTICS)

    assert checked.code == 0  # a pause is meant
    assert "paused by kim since " in checked.findings[f"pause of {TAPLYTICS}"]
    assert stopped.error.startswith(f"{TAPLYTICS} was paused by kim: holidays.")
    assert stopped.upload == {}
    assert "skipped: beta_users_taplytics was paused by kim: holidays" in run("history", TAPLYTICS).out
    assert run("resume", TAPLYTICS).out == f"{TAPLYTICS} is resumed; its next window delivers.\n"
    assert run("resume", TAPLYTICS).out == f"{TAPLYTICS} was not paused.\n"
    assert deliver(demo_folder, TAPLYTICS).upload["users"] == 276


@pytest.mark.slow
def test_an_approval_delivers_the_held_payload_and_the_record_says_by_whose_word(
    run: Run, demo_folder: Path, standins: InThread
) -> None:
    window = deliver(demo_folder, TAPLYTICS, back=1).partition_key
    with few_members(standins, keep=20):
        held = deliver(demo_folder, TAPLYTICS)
    assert "Held by the gate max_shrink" in held.error
    assert segment(standins) == payload(demo_folder, TAPLYTICS, window)

    later = run("approve", TAPLYTICS, "--because", "the campaign is over", "--who", "kim", "--later")
    assert (later.code, segment(standins)) == (0, payload(demo_folder, TAPLYTICS, window))
    assert later.out.startswith(f"{TAPLYTICS}: the payload of {held.partition_key} may pass the gates until ")

    approved = run("approve", TAPLYTICS, "--because", "the campaign is over", "--who", "kim")

    few = payload(demo_folder, TAPLYTICS, held.partition_key)
    assert (approved.code, approved.err) == (0, "")
    assert f"Delivered to 'Beta Users': {len(few)} users, 0 joined, {276 - len(few)} left" in approved.out
    assert segment(standins) == few
    assert "let through the gates by kim: the campaign is over" in run("history", TAPLYTICS).out


@pytest.mark.slow
@pytest.mark.parametrize("before", ["something is held", "nothing is held"])
def test_an_approval_is_of_the_payload_that_it_shows_and_not_of_one_that_is_held_meanwhile(
    run: Run, demo_folder: Path, standins: InThread, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    assert deliver(demo_folder, TAPLYTICS, back=2).upload
    held = ""
    if before == "something is held":
        with few_members(standins, keep=20):
            held = deliver(demo_folder, TAPLYTICS, back=1).partition_key

    def asking(who: str) -> str:
        with few_members(standins, keep=10):
            assert "Held by the gate max_shrink" in deliver(demo_folder, TAPLYTICS).error
        return who

    monkeypatch.setattr(operations, "asking", asking)
    done = run("approve", TAPLYTICS, "--because", "the campaign is over", "--who", "kim", "--later")

    with Ledger(f"sqlite:///{demo_folder}/data/ledger.sqlite").read() as connection:
        approved = connection.execute(select(schema.approval.c.payload_checksum)).scalars().all()
        shown = select(schema.attempt.c.payload_checksum).filter_by(window=held)
        expected = connection.execute(shown).scalars().all()
    assert approved == expected
    assert done.code == (0 if held else 1)
    says = f"{TAPLYTICS}: the payload of {held} may pass" if held else "NothingHeld: "
    assert (done.out or done.err).startswith(says)


@pytest.mark.usefixtures("demo_folder")
@pytest.mark.parametrize("unknown", [KeyError, OSError])  # up to Python 3.12, and from 3.13 on
def test_a_user_without_a_name_is_known_by_number(
    run: Run, monkeypatch: pytest.MonkeyPatch, unknown: type[Exception]
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def getpwuid(uid: int) -> None:
        raise unknown(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)

    assert run("pause", TAPLYTICS, "--because", "holidays").code == 0
    assert f"paused by uid {os.getuid()}@" in run("check").findings[f"pause of {TAPLYTICS}"]


@pytest.mark.usefixtures("demo_folder")
@pytest.mark.parametrize(
    "command",
    [
        ("pause", TAPLYTICS, "--because", NOT_TEXT),
        ("pause", TAPLYTICS, "--because", "x", "--who", NOT_TEXT),
        ("pause", NOT_TEXT, "--because", "x"),
        ("approve", TAPLYTICS, "--because", NOT_TEXT),
        ("restore", TAPLYTICS, NOT_TEXT, "--yes"),
        ("restore", TAPLYTICS, "w", "--yes", "--pause", "--because", NOT_TEXT),
        ("retire", NOT_TEXT, "--yes"),
        ("history", NOT_TEXT),
        ("export", "launch_list", "--name", NOT_TEXT),
        ("export", NOT_TEXT),
        ("demo", "--sync", NOT_TEXT),
        ("demo", "--folder", NOT_TEXT),
    ],
    ids=" ".join,
)
def test_what_is_no_text_is_refused_where_it_is_read(run: Run, command: tuple[str, ...]) -> None:
    refused = run(*command)

    assert (refused.code, refused.out) == (2, "")
    assert re.search(r"Invalid value for '.*': it is not text in UTF-8", refused.err)


@pytest.mark.usefixtures("demo_folder")
def test_a_user_whose_name_is_no_text_is_known_by_what_of_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", NOT_TEXT)

    assert run("pause", TAPLYTICS, "--because", "holidays").code == 0
    assert "paused by caf?@" in run("check").findings[f"pause of {TAPLYTICS}"]


@pytest.mark.usefixtures("demo_folder")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--until", "9999-12-31T23:59-05:00"), "'9999-12-31T23:59-05:00' is a moment that no ledger can keep"),
        (("--until", "9999-12-31T23:59"), "'9999-12-31T23:59' is a moment that no ledger can keep"),
        (("--until", "0001-01-01T00:00+05:00"), "'0001-01-01T00:00+05:00' is a moment that no ledger can keep"),
        (("--until", "2090-01-01", "--max-users", "99999999999999999999"), "less than or equal to 1000000000"),
        (("--until", "2090-01-01", "--min-users", "9999999999"), "less than or equal to 1000000000"),
    ],
)
def test_an_approval_of_more_than_a_ledger_can_keep_is_refused(run: Run, arguments: tuple[str, ...], says: str) -> None:
    refused = run("approve", TAPLYTICS, "--because", "x", "--min-users", "1", *arguments)

    assert (refused.code, refused.out) == (2, "")
    assert says in " ".join(refused.err.replace("│", " ").split())


@pytest.mark.usefixtures("demo_folder")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), r"NothingHeld: No payload of beta_users_taplytics is held by a gate\."),
        (("--min-users", "5"), r"ApprovalIncomplete: .*"),
    ],
)
def test_an_approval_of_nothing_in_particular_is_refused(run: Run, arguments: tuple[str, ...], says: str) -> None:
    refused = run("approve", TAPLYTICS, "--because", "x", *arguments)

    assert (refused.code, refused.out) == (1, "")
    assert re.match(says, refused.err)


@pytest.mark.usefixtures("demo_folder")
def test_payloads_of_a_size_can_be_let_through_beforehand(run: Run) -> None:
    sizes = ("--min-users", "1", "--max-users", "50")

    done = run("approve", TAPLYTICS, "--because", "a quiet week", *sizes, "--until", "2090-01-01T12:00+01:00")
    unreadable = run("approve", TAPLYTICS, "--because", "a quiet week", *sizes, "--until", "soon")

    assert done.out == f"{TAPLYTICS}: payloads of that size may pass the gates until 2090-01-01 11:00 UTC.\n"
    assert unreadable.code == 2
    assert "'soon' is no moment" in unreadable.err


@pytest.mark.slow
def test_a_restore_shows_the_difference_asks_and_puts_the_audience_back(
    run: Run, demo_folder: Path, standins: InThread
) -> None:
    earlier = deliver(demo_folder, TAPLYTICS, back=1).partition_key
    standins.standins.mixpanel.project.churn(0.1)
    newest = deliver(demo_folder, TAPLYTICS).partition_key
    users = len(payload(demo_folder, TAPLYTICS, earlier))

    with no_temporary_folder():
        asked = run("restore", TAPLYTICS, earlier)

    lines = dict(line.split(maxsplit=1) for line in asked.out.splitlines())
    back = payload(demo_folder, TAPLYTICS, earlier) - payload(demo_folder, TAPLYTICS, newest)
    assert (asked.code, asked.err.split(":")[0]) == (1, "ConfirmationNeeded")
    assert lines["joiners"].strip() == str(len(back))
    assert lines["unchanged"].strip() == str(users - len(back))
    assert segment(standins) == payload(demo_folder, TAPLYTICS, newest)

    with no_temporary_folder():
        done = run("restore", TAPLYTICS, earlier, "--yes", "--pause", "--because", "it is wrong", "--who", "kim")

    assert (done.code, done.err) == (0, "")
    assert f"restored from {earlier}" in done.out
    assert segment(standins) == payload(demo_folder, TAPLYTICS, earlier)
    assert "paused by kim" in run("check").findings[f"pause of {TAPLYTICS}"]


@pytest.mark.usefixtures("demo_folder")
def test_a_restore_that_cannot_be_is_refused(run: Run) -> None:
    nothing = run("restore", TAPLYTICS, "2026-01-01T0000Z", "--yes")
    without_a_word = run("restore", TAPLYTICS, "2026-01-01T0000Z", "--yes", "--pause")

    assert (nothing.code, nothing.err.split(":")[0]) == (1, "NothingToRestore")
    assert without_a_word.code == 2
    assert "--pause needs --because" in without_a_word.err
    for words in (("--because", "x"), ("--who", "kim")):
        dropped = run("restore", TAPLYTICS, "2026-01-01T0000Z", "--yes", *words)
        assert dropped.code == 2
        assert "--because and --who go with --pause" in dropped.err


@pytest.mark.slow
def test_a_held_restore_is_put_back_by_an_approval(run: Run, demo_folder: Path, standins: InThread) -> None:
    with few_members(standins, keep=20):
        earlier = deliver(demo_folder, TAPLYTICS, back=1).partition_key
    newest = deliver(demo_folder, TAPLYTICS).partition_key
    few = payload(demo_folder, TAPLYTICS, earlier)

    held = run("restore", TAPLYTICS, earlier, "--yes")
    assert held.code == 1
    assert "Held by the gate max_shrink" in held.err
    later = run("approve", TAPLYTICS, "--because", "it was so", "--later")
    assert later.out.startswith(f"{TAPLYTICS}: the payload of {earlier} may pass the gates until ")
    assert segment(standins) == payload(demo_folder, TAPLYTICS, newest) != few

    approved = run("approve", TAPLYTICS, "--because", "it was so", "--who", "kim")

    assert (approved.code, approved.err) == (0, "")
    assert f"restored from {earlier}; let through the gates by kim: it was so" in approved.out
    assert segment(standins) == few
    assert run("approve", TAPLYTICS, "--because", "it was so").err.startswith("NothingHeld: ")


@pytest.mark.slow
def test_a_restore_that_is_broken_off_says_that_the_sync_is_paused(
    run: Run, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = deliver(demo_folder, TAPLYTICS).partition_key

    def break_off(*_: object) -> str:
        pause(Ledger(f"sqlite:///{demo_folder}/data/ledger.sqlite"), TAPLYTICS, who="kim", why="x")
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run_operation", break_off)
    ended = run("restore", TAPLYTICS, window, "--yes", "--pause", "--because", "x")

    assert ended.code == 130
    assert f"{TAPLYTICS} is paused; cohort-pipelines resume {TAPLYTICS} lets it deliver again." in ended.err


@pytest.mark.slow
def test_an_export_is_planned_and_restored_as_one(run: Run, export_project: Path, standins: InThread) -> None:
    here = ("--project", str(export_project))
    assert "no sealed partner_payload for the window next export" in run("plan", "launch_list", "--sealed", *here).err
    assert run("export", "launch_list", "--name", "first", *here).code == 0
    first = segment(standins, "Launch List")
    standins.standins.mixpanel.project.churn(0.1)

    assert "launch_list, next export" in run("plan", "launch_list", *here).out
    assert run("export", "launch_list", "--name", "second", *here).code == 0
    assert "launch_list, export second" in run("plan", "launch_list", "--sealed", *here).out
    restored = run("restore", "launch_list", "first", "--yes", *here)

    assert (restored.code, restored.err) == (0, "")
    assert "The next export delivers the cohort as it is then" in restored.out
    assert segment(standins, "Launch List") == first
    assert run("pause", "launch_list", "--because", "x", *here).code == 0
    assert "export delivers" in run("resume", "launch_list", *here).out


@pytest.mark.slow
def test_what_nothing_reaches_is_said_before_anybody_is_asked(
    run: Run, export_project: Path, standins: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("--project", str(export_project))
    nothing = run("retire", "launch_list", *here)
    assert (nothing.code, nothing.out) == (1, "")
    assert nothing.err.startswith("TargetNotKnown: launch_list: it owns no target.")
    assert run("export", "launch_list", *here).code == 0
    monkeypatch.setenv("TAPLYTICS_URL", standins.taplytics_url.replace("127.0.0.1", "localhost"))

    for command in ("retarget", "retire"):
        refused = run(command, "launch_list", *here)
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith(
            "TargetNotKnown: launch_list: no destination that can be loaded reaches 'Launch List'"
        )
    asked = run("retarget", "launch_list", "--forget", *here)
    assert asked.out == "'Launch List' (taplytics) is given up as it is: up to 276 users stay there.\n"
    assert run("retarget", "launch_list", "--forget", "--yes", *here).code == 0

    assert len(segment(standins, "Launch List")) == 276
    assert run("export", "launch_list", *here).code == 0
    assert "target 'Launch List'" not in run("check", *here).findings


@pytest.mark.slow
def test_a_sync_that_was_pointed_elsewhere_is_found_and_moved(
    run: Run, export_project: Path, standins: InThread
) -> None:
    here = ("--project", str(export_project))
    (file,) = export_project.glob("*/defs/launch_list/defs.yaml")
    assert run("export", "launch_list", "--name", "first", *here).code == 0
    assert run("retarget", "launch_list", *here).out.endswith("There is nothing to do.\n")
    file.write_text(LAUNCH_LIST.replace("Launch List", "Other List"), encoding="utf-8")

    orphan = run("check", *here).findings["target 'Launch List'"]
    assert orphan.endswith("its owner launch_list is declared for another: cohort-pipelines retarget launch_list")
    refused = run("export", "launch_list", *here)
    assert (refused.code, refused.out) == (1, "")
    assert "delivers to 'Launch List', and is now declared for 'Other List'" in refused.err
    asked = run("retarget", "launch_list", *here)
    assert (asked.code, asked.err.split(":")[0]) == (1, "ConfirmationNeeded")
    assert len(segment(standins, "Launch List")) == 276

    moved = run("retarget", "launch_list", "--yes", *here)

    assert (moved.code, moved.err) == (0, "")
    assert "'Launch List' (taplytics) is emptied: up to 276 users leave it." in moved.out
    assert segment(standins, "Launch List") == set()
    assert run("export", "launch_list", *here).code == 0
    assert len(segment(standins, "Other List")) == 276
    assert "target 'Launch List'" not in run("check", *here).findings


@pytest.mark.slow
def test_a_renamed_sync_takes_its_target_over_and_a_deleted_one_is_retired(
    run: Run, export_project: Path, standins: InThread
) -> None:
    here = ("--project", str(export_project))
    (folder,) = export_project.glob("*/defs/launch_list")
    assert run("export", "launch_list", *here).code == 0

    folder.rename(folder.with_name("autumn_list"))
    heir = run("check", *here).findings["target 'Launch List'"]
    assert heir.endswith("takes it over with: cohort-pipelines retarget autumn_list")
    taken = run("retarget", "autumn_list", "--yes", *here)
    assert "with up to 276 users, is taken over from launch_list" in taken.out
    assert "0 joined, 0 left, 0 requests" in run("export", "autumn_list", *here).out

    gone = folder.with_name("autumn_list")
    (gone / "defs.yaml").unlink()
    gone.rmdir()
    orphan = run("check", *here).findings["target 'Launch List'"]
    assert orphan.endswith("they stay there until: cohort-pipelines retire autumn_list")
    retired = run("retire", "autumn_list", "--yes", *here)
    assert (retired.code, retired.err) == (0, "")
    assert segment(standins, "Launch List") == set()
    assert "target 'Launch List'" not in run("check", *here).findings


def test_a_target_is_given_up_where_not_even_a_destination_is_declared_any_more(run: Run, export_project: Path) -> None:
    here = ("--project", str(export_project))
    for file in export_project.glob("*/defs/*/defs.yaml"):
        file.unlink()
        file.parent.rmdir()
    ledger = Ledger(f"sqlite:///{export_project}/data/ledger.sqlite")
    owned = {"owner": "launch_list", "generation": 1, "head_seq": 1, "established": True, "in_doubt": 0, "held": 276}
    with ledger.write() as connection:
        target = Target("taplytics", "api.taplytics.com", "", "Launch List")
        connection.execute(schema.target.insert().values(**asdict(target), **owned))

    orphan = run("check", *here).findings["target 'Launch List'"]
    assert orphan.endswith("they stay there until: cohort-pipelines retire launch_list")
    refused = run("retire", "launch_list", "--yes", *here)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(
        "TargetNotKnown: launch_list: no destination that can be loaded reaches 'Launch List'"
    )
    assert "give it up as it is with --forget" in refused.err
    retired = run("retire", "launch_list", "--forget", "--yes", *here)

    assert (retired.code, retired.err) == (0, "")
    assert "'Launch List' (taplytics) is given up as it is: up to 276 users stay there." in retired.out
    assert run("check", *here).out == ""


@pytest.mark.slow
def test_a_lost_ledger_is_refused_until_it_is_rebuilt(run: Run, demo_folder: Path, standins: InThread) -> None:
    assert deliver(demo_folder, TAPLYTICS).upload
    for file in (demo_folder / "data").glob("ledger*"):
        file.unlink()

    assert run("check").findings["ledger"].endswith("Nothing was sent; the audience is as it was.")
    assert run("plan", TAPLYTICS).err.startswith("LedgerUnpaired: ")
    assert run("ledger", "rebuild").err.startswith("ConfirmationNeeded: ")
    rebuilt = run("ledger", "rebuild", "--yes")

    assert rebuilt.out.startswith("The ledger knows 1 target again, from ")
    assert "276 ids are maybe delivered" in rebuilt.out
    assert "Pauses and open approvals stand in no history" in rebuilt.out
    outcome = deliver(demo_folder, TAPLYTICS)
    assert outcome.error == ""
    assert segment(standins) == payload(demo_folder, TAPLYTICS, outcome.partition_key)


@pytest.mark.slow
def test_a_lost_history_is_refused_until_its_ids_are_to_be_forgotten(run: Run, demo_folder: Path) -> None:
    assert deliver(demo_folder, TAPLYTICS, back=1).upload
    (demo_folder / "data" / "history").rename(demo_folder / "lost")

    refused = run("plan", TAPLYTICS).err
    assert refused.startswith("HistoryUnpaired: ")
    assert "cohort-pipelines ledger rebuild --forget" in refused
    assert run("check").findings["ledger"] == refused.removeprefix("HistoryUnpaired: ").rstrip()
    told = run("ledger", "rebuild", "--yes")
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith("IdsForgotten: The ledger was not rebuilt: 'Beta Users' may hold 276 ids, ")

    rebuilt = run("ledger", "rebuild", "--forget", "--yes")
    assert "Of the ids that targets may hold, up to 276 are named by no file any more." in rebuilt.out
    assert deliver(demo_folder, TAPLYTICS).error == ""


@pytest.mark.usefixtures("demo_folder")
@pytest.mark.parametrize(
    "command",
    [
        ("pause", "nobodys_list", "--because", "x"),
        ("resume", "nobodys_list"),
        ("approve", "nobodys_list", "--because", "x"),
        ("restore", "nobodys_list", "2026-01-01T0000Z", "--yes"),
        ("retarget", "nobodys_list", "--yes"),
        ("retire", "nobodys_list", "--yes"),
    ],
    ids=lambda command: command[0],
)
def test_a_sync_that_is_not_declared_gets_a_sentence(run: Run, command: tuple[str, ...]) -> None:
    refused = run(*command)

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("SyncUnknown: This project declares no sync 'nobodys_list'. Nothing was run.")
    assert APPTIMIZE in refused.err


def test_pause_resume_and_history_need_no_declaration(run: Run, export_project: Path) -> None:
    here = ("--project", str(export_project))
    assert run("pause", "launch_list", "--because", "not yet", *here).code == 0
    Ledger(f"sqlite:///{export_project}/data/ledger.sqlite").note_window("launch_list", "spring", "failed", "no answer")
    for file in export_project.glob("*/defs/*/defs.yaml"):
        file.write_text("no: [declaration", encoding="utf-8")
    (file.parents[1] / "broken.py").write_text("raise RuntimeError", encoding="utf-8")

    assert run("resume", "launch_list", *here).out == "launch_list is resumed; its next window or export delivers.\n"
    assert run("pause", "launch_list", "--because", "a holiday", *here).code == 0
    assert "failed: no answer" in run("history", "launch_list", *here).out
    unknown = run("pause", "nowhere", "--because", "a holiday", *here)
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err.startswith("ProjectNotLoaded: ")


def test_a_command_needs_no_declarations_but_its_own(run: Run, export_project: Path, standins: InThread) -> None:
    here = ("--project", str(export_project))
    (package,) = (file.parents[2] for file in export_project.glob("*/defs/launch_list/defs.yaml"))
    for name, text in {
        "no_yaml": "no: [declaration",
        "twice": LAUNCH_LIST.replace("List", "A: 1"),
        "empty": "",
    }.items():
        (package / "defs" / name).mkdir()
        (package / "defs" / name / "defs.yaml").write_text(text, encoding="utf-8")

    assert run("export", "launch_list", "--name", "spring", *here).code == 0
    assert run("plan", "launch_list", *here).code == 0
    assert run("restore", "launch_list", "spring", "--yes", *here).code == 0
    assert segment(standins, "Launch List") == payload(export_project, "launch_list", "spring")
    assert run("check", *here).code == 1
