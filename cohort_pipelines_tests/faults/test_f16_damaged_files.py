"""F16: a sealed file is truncated, or a bit of it flips: that is found before anything is sent."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.orchestration.resolved import STAGES
from cohort_pipelines_tests.faults.projects import Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS


def flipped(content: bytes, at: int) -> bytes:
    """Return ``content`` with one bit of the byte ``at`` the other way round."""
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "a bit at the start": lambda content: flipped(content, 0),
    "a bit in the middle": lambda content: flipped(content, len(content) // 2),
    "a bit at the end": lambda content: flipped(content, -1),
    "a bit of the rows": lambda content: flipped(content, 200),
    "cut in half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "empty": lambda _content: b"",
    "longer": lambda content: content + b"\0",
    "another file": lambda content: content[::-1],
}
READS = {"cohort_snapshot": "identified_users", "identified_users": "partner_payload"}


@pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])
@pytest.mark.parametrize("stage", ["cohort_snapshot", "identified_users", "partner_payload"])
def test_f16_a_damaged_file_is_found_and_never_uploaded(project: Faulty, name: str, stage: str) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(name).success
    before, asked = project.held(name), project.judge.asked()
    project.churn(0.2)
    reader = READS.get(stage, "destination_upload")
    assert project.run(name, stages=STAGES[: STAGES.index(reader)]).success
    [file] = project.judge.files(name, stage, project.window(name))
    sound = file.read_bytes()

    for how, damage in DAMAGES.items():
        file.write_bytes(damage(sound))
        result = project.run(name, stages=STAGES[STAGES.index(reader) :])

        assert f"The sealed file {file} does not match its checksum" in said(result), how
        assert (project.held(name), project.judge.asked()) == (before, asked), how
        assert project.ledger.windows(name)[0].state == "failed", how

    file.write_bytes(sound)
    assert project.run(name, stages=STAGES[STAGES.index(reader) :]).success
    assert project.held(name) == project.judge.payload(name, project.window(name))
    assert project.judge.damaged() == []


def test_f16_a_damaged_payload_that_is_made_again_is_delivered(project: Faulty) -> None:
    assert project.run(TAPLYTICS, stages=STAGES[:3]).success
    [file] = project.judge.files(TAPLYTICS, "partner_payload")
    sound = file.read_bytes()
    damage(file)
    assert "does not match its checksum" in said(project.run(TAPLYTICS, stages=STAGES[3:]))

    assert project.run(TAPLYTICS).success  # as the sentence says: materialize the step that makes it

    assert file.read_bytes() == sound
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


def damage(file: Path) -> None:
    file.write_bytes(flipped(file.read_bytes(), 100))
