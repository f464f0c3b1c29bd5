"""F24: ids of any text come back from the partner byte for byte, or are excluded with a reason."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.faults.projects import (
    FILES,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    adding,
    opened,
    sync,
    to_the_window_before,
)

SOUND = {
    "unicode": [
        "Zoë",
        "李雷",
        "🦊🧑🏽‍🚀",
        "\u00f1",
        "n\u0303",
        "مرحبا",
        "\u202eright to left",
        "hard\u00a0space",
        "mark\ufeffinside",
        "\U0010fffd",
    ],
    "formulas": ["=1+1", "+49123", "@SUM(A1)", "-5", '=HYPERLINK("http://x","y")', "'quoted", "|pipe", "%41"],
    "csv": ["a,b", 'say "hi"', '"', '""', ",", ";", "a\\b", "in between", "user_id", "a\u2028line"],
    "json and urls": ["{}", "null", "true", "0", "007", "1e3", "a/b", "a?b=c&d#e", "../../etc/passwd", "<b>&amp;"],
    "case": ["ADA", "ada", "Ada", "Straße", "STRASSE", "\u0130", "i\u0307", "\u212a", "k"],
    "long": ["x" * 1024, "é" * 512, "🦊" * 256],
}
UNSOUND = {
    "10 kB": ["y" * 10_240],
    "just too long": ["z" * 1025, "é" * 512 + "x"],
    "controls": ["nul\0inside", "\0", "line\nbreak", "carriage\rreturn", "tab\tstop", "\x7f", "\x1b[31m"],
    "broken unicode": ["half \ufffd"],
}
PADDED = ["\u00a0", "\ufeffmark", " leading", "trailing ", "\u2028line", "\u3000", "both\u2003"]
EXPECTED: Mapping[str, str] = {each: "invalid_text" for group in UNSOUND.values() for each in group} | dict.fromkeys(
    PADDED, "surrounding_space"
)
ODD = [each for group in (*SOUND.values(), *UNSOUND.values(), PADDED) for each in group]

WEBHOOK = """
type: cohort_pipelines.orchestration.WebhookDestination
attributes:
  url: "{{ env.APPTIMIZE_URL }}"
  auth: header
  parameter: ApptimizeApiToken
  secret: "{{ env.APPTIMIZE_TOKEN }}"
  match_on: odd
"""
PER_USER, BY_MESSAGE, BY_FILE = "by_user", "by_message", "by_file"
ORDINARY = {f"ordinary-{number}": {"plan": "beta", "odd": f"ordinary-{number}"} for number in range(100)}


@pytest.fixture
def odd(tmp_path: Path, at_an_opening: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:  # noqa: ARG001
    """Return a project that delivers by every wire, with a few hundred people of whom some have odd ids.

    One of them is known by that id in every way: as distinct_id, as Apptimize's, and in a property of their own.
    """
    monkeypatch.setenv("IMPORTS", str(tmp_path / "imports"))
    declared = {
        "mixpanel": MIXPANEL,
        "taplytics": TAPLYTICS,
        "messages": WEBHOOK,
        "files": FILES.replace("keep", "strip"),
        PER_USER: sync("taplytics", "Beta"),
        BY_MESSAGE: sync("messages", "Beta"),
        BY_FILE: sync("files", "Beta", "recurring"),
    }
    with opened(tmp_path, declared, Settings(members=100, page_size=100)) as project:
        project.profiles(ORDINARY)
        yield project


def join(project: Faulty) -> None:
    """Let everybody with an odd id join the cohort."""
    project.profiles({each: {"plan": "beta", "odd": each, "$apptimize_user_id": f"i_{each}"} for each in ODD})


def imported(project: Faulty) -> set[str]:
    """Import the file that lies ready, as somebody does in the dashboard, and return who is in the group then."""
    [current] = (project.judge.data.parent / "imports").rglob("current.csv")
    url = httpx.URL(project.standins.apptimize_url).copy_with(path="/groups/import", params={"name": "Imported"})
    httpx.post(url, content=current.read_bytes()).raise_for_status()
    return project.judge.group("Imported")


def held_by(project: Faulty, wire: str) -> set[str]:
    """Return who is in the audience at the end of a wire."""
    return imported(project) if wire == BY_FILE else project.held(wire)


@pytest.mark.parametrize("wire", [PER_USER, BY_MESSAGE, BY_FILE])
def test_f24_an_id_arrives_byte_for_byte_or_is_excluded_with_a_reason(odd: Faulty, wire: str) -> None:
    with clock.shifted(to_the_window_before()):
        assert odd.run(wire).success
    join(odd)
    window = odd.window(wire)

    assert odd.run(wire).success

    held = partial(held_by, odd, wire)
    reasons = {partner_id: reason for _, partner_id, reason in odd.judge.excluded(wire, window)}
    prefix = "i_" if wire == BY_FILE else ""
    too_long_with_it = {each for each in ODD if len(f"{prefix}{each}".encode()) > 1024} if prefix else set()
    assert held() == odd.judge.payload(wire, window)
    for each in ODD:
        if each in EXPECTED:
            assert each not in held(), each[:40]
            assert reasons[f"{prefix}{each}"] == EXPECTED[each], each[:40]
        else:
            assert each in held() or each in too_long_with_it, each[:40]
    assert len(held() & set(ODD)) >= sum(map(len, SOUND.values())) - len(too_long_with_it)

    odd.leave(ODD)
    config = {"ops": {f"{wire}__cohort_snapshot": {"config": {"refresh": True}}}}
    assert odd.run(wire, run_config=config).success
    assert held() & set(ODD) == set()  # what came in by a name goes out by it


EQUAL = {
    "casefold": [("ADA", "ada", "Ada"), ("Straße", "STRASSE"), ("\u212a", "k")],
    "nfc": [("\u00f1", "n\u0303"), ("\u00c5", "\u212b", "A\u030a")],
}


@pytest.mark.parametrize("equality", ["casefold", "nfc"])
@pytest.mark.parametrize("wire", [PER_USER, BY_MESSAGE])
def test_f24_of_ids_that_the_partner_takes_for_one_one_stays_whoever_comes_and_goes(
    tmp_path: Path,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
    wire: str,
    equality: str,
) -> None:
    declared = {
        "mixpanel": MIXPANEL,
        "taplytics": adding(TAPLYTICS, f"id_equality: {equality}"),
        "messages": WEBHOOK + f"  id_equality: {equality}\n",
        PER_USER: sync("taplytics", "Beta"),
        BY_MESSAGE: sync("messages", "Beta"),
    }
    with opened(tmp_path, declared, Settings(members=100, page_size=100)) as project:
        service = {PER_USER: "taplytics", BY_MESSAGE: "apptimize"}[wire]
        project._tell(service, "behaviour", {"id_equality": equality})
        held = partial(held_by, project, wire)
        spellings = [each for group in EQUAL[equality] for each in group]
        project.profiles(ORDINARY)
        with clock.shifted(to_the_window_before(2)):
            assert project.run(wire).success
        before = held()
        project.profiles({each: {"plan": "beta", "odd": each} for each in spellings})

        with clock.shifted(to_the_window_before()):
            assert project.run(wire).success
            window = project.window(wire)
        surplus = {each for _, each, reason in project.judge.excluded(wire, window) if reason == "duplicate_partner_id"}
        assert len(held() - before) == len(EQUAL[equality])
        assert [len(surplus & set(group)) for group in EQUAL[equality]] == [len(group) - 1 for group in EQUAL[equality]]

        stays = set(spellings) - project.judge.payload(wire, window)
        project.leave(project.judge.payload(wire, window) & set(spellings))  # another spelling remains in the cohort
        assert stays

        assert project.run(wire).success
        assert len(held() - before) == len(EQUAL[equality])  # nobody was removed with the spelling that left
