import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import HistoryUnpaired, LedgerUnpaired
from cohort_pipelines.core.files import Stage
from cohort_pipelines.history import History
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.recovery import pairing
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, World, users

LEASE_IS_OVER = timedelta(minutes=2)


def generation(world: World) -> int:
    with world.ledger.read() as connection:
        number: int = connection.execute(select(schema.meta.c.generation)).scalar_one()
    return number


def mirrored(world: World) -> list[int]:
    marks = (world.folder / "history" / ".ledger").iterdir()
    return [json.loads(path.read_bytes())["generation"] for path in marks if path.name != pairing.IDENTITY]


def test_the_first_use_pairs_a_ledger_and_a_history(tmp_path: Path) -> None:
    ledger, history = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite"), History(tmp_path / "history")
    assert not pairing.require_fitting(ledger, history)
    assert history.read_marks() == {}  # looking is not pairing
    pairing.require_paired(ledger, history)
    assert pairing.require_fitting(ledger, history)
    with pytest.raises(LedgerUnpaired, match="another ledger's"):
        pairing.require_paired(Ledger(f"sqlite:///{tmp_path}/other.sqlite"), history)


def test_marks_say_how_far_the_ledger_has_come_and_hold_no_id(world: World) -> None:
    world.overwrite({"needle-1", "needle-2"})
    assert mirrored(world) == [generation(world)]
    assert all(b"needle" not in content for content in world.history.read_marks().values())


def test_a_new_ledger_is_refused_where_something_was_delivered_before_there_were_marks(world: World) -> None:
    world.overwrite(users(1))
    for path in (world.folder / "history" / ".ledger").iterdir():
        path.unlink()
    with pytest.raises(LedgerUnpaired, match="it is new, and the history tells of deliveries"):
        pairing.require_paired(Ledger(f"sqlite:///{world.folder}/other.sqlite"), world.history)
    world.next_window()
    world.overwrite(users(2))  # the ledger that delivered it takes the history for its own
    assert world.partner.members == users(2)


def test_a_history_that_is_gone_or_another_one_is_not_paired_with_a_ledger_that_has_a_past(world: World) -> None:
    world.overwrite(users(1))
    lost = world.folder / "history"
    lost.rename(world.folder / "moved")
    for root in (lost, world.folder / "mistyped"):
        with pytest.raises(HistoryUnpaired, match="the history of none, so the right one is gone") as refused:
            pairing.require_paired(world.ledger, History(root))
        assert f"(the history is {root})" in str(refused.value)
        assert "COHORT_PIPELINES_DATA" in str(refused.value)
        assert not root.exists()

    (world.folder / "moved").rename(lost)
    world.next_window()
    world.overwrite(users(2))
    assert world.partner.members == users(2)


def test_a_history_that_another_process_pairs_at_this_moment_is_not_taken_for_one_that_is_gone(world: World) -> None:
    class PairedMeanwhile(History):
        def read_marks(self) -> dict[str, bytes]:
            marks = super().read_marks()
            with pytest.raises(Killed):
                world.overwrite(users(1), fate=Fate(dies_at=2))  # after the claim, before the plan is there
            return marks

    assert not pairing.require_fitting(world.ledger, PairedMeanwhile(world.folder / "history"))
    assert world.history.windows(SYNC, Stage.PLAN) == []
    with world.ledger.read() as connection:
        assert connection.execute(select(schema.attempt.c.id)).scalar_one()


@pytest.mark.slow
def test_a_crash_anywhere_never_gets_a_ledger_refused(world: World) -> None:
    point, alive = 0, True
    while alive:
        point += 1
        world.next_window()
        payload, seq = world.seal(users(point, point + 1))
        try:
            with clock.shifted(point * LEASE_IS_OVER):
                world.deliver(payload, seq, fate=Fate(dies_at=point))
            alive = False
        except Killed:
            pairing.require_paired(world.ledger, world.history)
            assert all(each <= generation(world) for each in mirrored(world))
    assert point > 10


def test_a_damaged_mark_is_refused_by_name(world: World) -> None:
    world.overwrite(users(1))
    (world.folder / "history" / ".ledger" / pairing.IDENTITY).write_bytes(b"\xff{")
    with pytest.raises(LedgerUnpaired, match=r"\.ledger/id\.json is damaged"):
        world.overwrite(users(2))


def test_marks_are_kept_on_an_object_store_too(tmp_path: Path) -> None:
    history = History(f"memory://{tmp_path.name}/history")
    assert history.read_marks() == {}
    for content in (b"one", b"two"):
        history.write_mark("a.json", content)
        assert history.read_marks() == {"a.json": content}
    history.remove_mark("a.json")
    assert history.read_marks() == {}


@pytest.mark.parametrize(("name", "other"), [("team[1]", "team1"), ("all*", "alls"), ("wh?t", "what")])
def test_a_history_whose_name_looks_like_a_glob_is_itself_and_no_other(tmp_path: Path, name: str, other: str) -> None:
    worlds = []
    for folder in (tmp_path / other, tmp_path / name):
        folder.mkdir()
        worlds.append(World(folder))
    before: set[str] = set()
    for ids in (users(1, 2), users(2, 3), users(3, 4)):
        for world in worlds:
            receipt = world.overwrite(ids)
            assert world.partner.members == ids
            assert (receipt.planned, receipt.users) == (len(before ^ ids), 2)
            world.next_window()
        before = ids
