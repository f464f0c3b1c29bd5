"""F36: a removal is refused; that is red whatever the tolerance for additions, and it is tried in every window.

Unless the id was out anyway, and its removal was asked for to reconcile alone.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryRejected, DeliveryStopped
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import SYNC, World, users
from cohort_pipelines_tests.faults.checker import Checker
from cohort_pipelines_tests.faults.projects import (
    MESSAGES,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    opened,
    said,
    sync,
    to_the_window_before,
    without_waiting,
)
from cohort_pipelines_tests.faults.wires import Wired

FLAGS, GROUP = "beta_flags", "beta_group"
DECLARED = {
    "mixpanel": MIXPANEL,
    "taplytics": TAPLYTICS,
    "apptimize": MESSAGES,
    FLAGS: sync("taplytics", "Beta", more=", rejection_tolerance: 5"),
    GROUP: sync("apptimize", "Beta", "recurring", more=", rejection_tolerance: 5"),
}


@pytest.fixture
def tolerant(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    with opened(tmp_path, DECLARED) as project:
        yield project


@pytest.mark.parametrize(("name", "partner", "prefix"), [(FLAGS, "taplytics", ""), (GROUP, "apptimize", "i_")])
def test_f36_a_refused_removal_is_red_within_the_tolerance_and_tried_again(
    tolerant: Faulty, name: str, partner: str, prefix: str
) -> None:
    people = {f"leaver-{number}": {"plan": "beta", "$apptimize_user_id": f"i_leaver-{number}"} for number in range(9)}
    tolerant.profiles(people)
    with clock.shifted(to_the_window_before(4)):
        assert tolerant.run(name).success
    stuck, bad_joiner = f"{prefix}leaver-4", f"{prefix}joiner-0"
    tolerant.leave(people)
    tolerant.churn(0.02)
    tolerant.behave(partner, refuse=[stuck])

    for back in (3, 2):  # in each window anew, though nothing has changed
        with clock.shifted(to_the_window_before(back)):
            result = tolerant.run(name)
            wanted = tolerant.judge.payload(name, tolerant.window(name))
        assert "rejected 0 additions and 1 removals" in said(result)
        assert tolerant.held(name) == wanted | {stuck}

    tolerant.profiles({"joiner-0": {"plan": "beta", "$apptimize_user_id": "i_joiner-0"}})
    tolerant.behave(partner, refuse=[bad_joiner])
    with clock.shifted(to_the_window_before()):
        assert tolerant.run(name).success  # a refused addition is tolerated
    assert tolerant.held(name) == wanted

    tolerant.behave(partner, refuse=[])
    assert tolerant.run(name).success
    assert tolerant.held(name) == tolerant.judge.payload(name, tolerant.window(name)) == wanted | {bad_joiner}


STAY, GONE, REFUSED = users(*range(10)), users(*range(10, 14)), users(10)
LEAVER, DISPUTED, UNHEARD = users(0), users(8), users(9)
WEEKLY = Terms(reconcile_within=timedelta(days=7), rejection_tolerance=5)
DUE = timedelta(days=8)


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wired]:
    with in_thread(Settings(members=10)) as standins:
        yield Wired(request.param, standins, tmp_path)


@pytest.fixture
def world(tmp_path: Path, wired: Wired) -> World:
    """Return a world whose target holds STAY, and held GONE before; from now on some may not be named."""
    world = World(tmp_path)
    for audience in (STAY | GONE, STAY):
        world.overwrite(audience, partner=wired.partner(), terms=WEEKLY)
        world.next_window()
    return world


def rejected_removals(world: World, wired: Wired) -> set[str]:
    """Return whose removals the receipt of the open window lists as refused; it lists nothing else."""
    [file] = Checker(world.folder, wired.standins).files(SYNC, "receipt", world.window.key)
    [receipt] = pq.read_table(file, columns=["rejected_rows"]).to_pylist()
    assert {row["operation"] for row in receipt["rejected_rows"]} <= {"remove"}
    return {row["id"] for row in receipt["rejected_rows"]}


def test_f36_who_is_out_and_is_refused_when_reconciled_is_no_failure(world: World, wired: Wired) -> None:
    wired.behave(refuse=sorted(REFUSED))
    with clock.shifted(DUE):
        receipt = world.overwrite(STAY, partner=wired.partner(), terms=WEEKLY)
        assert (receipt.state, receipt.rejected, receipt.leavers) == (AttemptState.DELIVERED, 1, 0)
        assert receipt.reconciled == len(STAY | GONE)
        assert rejected_removals(world, wired) == REFUSED
        assert wired.members == STAY

    world.next_window()
    wired.behave(refuse=[])
    wired.hold(STAY | REFUSED)  # by hand: whoever was refused is asked for in the next round too
    with clock.shifted(2 * DUE):
        receipt = world.overwrite(STAY, partner=wired.partner(), terms=WEEKLY)
    assert (receipt.state, receipt.rejected, receipt.reconciled) == (AttemptState.DELIVERED, 0, len(STAY | GONE))
    assert wired.members == STAY


def test_f36_who_was_refused_when_reconciled_and_has_been_in_since_is_a_failure(world: World, wired: Wired) -> None:
    wired.behave(refuse=sorted(REFUSED))
    with clock.shifted(DUE):
        world.overwrite(STAY, partner=wired.partner(), terms=WEEKLY)
        world.next_window()
        wired.behave(refuse=[])
        world.overwrite(STAY | REFUSED, partner=wired.partner(), terms=WEEKLY)
        assert wired.members == STAY | REFUSED
        wired.behave(refuse=sorted(REFUSED))
        for _ in range(2):  # in each window anew
            world.next_window()
            with pytest.raises(DeliveryRejected, match="0 additions and 1 removals"):
                world.overwrite(STAY, partner=wired.partner(), terms=WEEKLY)
            assert rejected_removals(world, wired) == REFUSED
        wired.behave(refuse=[])
        world.next_window()
        assert world.overwrite(STAY, partner=wired.partner(), terms=WEEKLY).leavers == 1
    assert wired.members == STAY


def test_f36_who_may_be_in_is_a_failure_beside_who_was_out_and_is_reconciled(
    world: World, wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is known to be in; two may be: an addition was refused that was to reconcile, and a removal got no answer."""
    without_waiting(monkeypatch)
    leave = LEAVER | DISPUTED | UNHEARD
    wired.behave(refuse=sorted(DISPUTED))
    with clock.shifted(DUE):
        assert world.overwrite(STAY, partner=wired.partner(), terms=WEEKLY).rejected == 1
        world.next_window()
        wired.fault(kind="lost_response", times=None)
        with pytest.raises(DeliveryStopped):
            world.overwrite(STAY - UNHEARD, partner=wired.partner(), terms=WEEKLY)
    wired.mend()
    wired.hold(STAY)
    wired.behave(refuse=sorted(REFUSED | leave))

    world.next_window()
    with clock.shifted(2 * DUE):
        with pytest.raises(DeliveryRejected, match="0 additions and 4 removals"):
            world.overwrite(STAY - leave, partner=wired.partner(), terms=WEEKLY)
        assert rejected_removals(world, wired) == REFUSED | leave

        world.next_window()
        with pytest.raises(DeliveryRejected, match="0 additions and 3 removals"):
            world.overwrite(STAY - leave, partner=wired.partner(), terms=WEEKLY)
        assert rejected_removals(world, wired) == leave
        assert wired.members == STAY

        wired.behave(refuse=[])
        world.next_window()
        world.overwrite(STAY - leave, partner=wired.partner(), terms=WEEKLY)
    assert wired.members == STAY - leave
