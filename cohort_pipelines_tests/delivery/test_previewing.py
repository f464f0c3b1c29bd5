from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DeliveryRejected, DeliveryStopped, NotSealedYet, PartnerRequestRejected
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.delivery import Gates, pace
from cohort_pipelines.delivery.pace import Pace
from cohort_pipelines.delivery.previewing import Preview, Wanted, excluded_of, newest_payload, preview
from cohort_pipelines.destinations.wire import Answer, ChangeWire, FileWire
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.history.overlay import laid_over
from cohort_pipelines.ledger import approvals, pauses, targets
from cohort_pipelines.ledger.approvals import Verdict
from cohort_pipelines.ledger.ledger import Ledger, Target
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.command_line import footprint
from cohort_pipelines_tests.delivery.test_file_delivery import MemoryFiles
from cohort_pipelines_tests.delivery.world import (
    ANY_SIZE,
    SYNC,
    Fate,
    Killed,
    MemoryPartner,
    Sent,
    World,
    late,
    lost,
    users,
)
from cohort_pipelines_tests.faults.wires import WIRES, Wired, small_pages

pytestmark = pytest.mark.slow

A_MINUTE = timedelta(minutes=1)


class OneByOne(MemoryPartner):
    """A partner of a kind that delivery was never told of: ten requests a second, one for each user."""

    def count_requests(self, adds: int, removals: int, *, first: bool) -> int:
        return 2 * first + adds + removals


def looked_at(
    world: World,
    ids: Iterable[str],
    *,
    partner: ChangeWire | FileWire | None = None,
    gates: Gates = ANY_SIZE,
    terms: Terms | None = None,
    ledger: bool = True,
    seq: int | None = None,
) -> Preview:
    """Return what delivering ``ids`` would do, by a snapshot that is not recorded, or by that of the number ``seq``."""
    with laid_over(world.history) as history:
        table = pa.table({"partner_user_id": pa.array(sorted(ids), pa.string())})
        payload = history.write(SYNC, Stage.PARTNER_PAYLOAD, world.window.key, table)
        partner = partner or world.partner
        wanted = Wanted(
            target=Target(partner.wire, partner.host, partner.account, "Beta"),
            sync=SYNC,
            window=world.window.key,
            payload=payload,
            members=payload.rows,
            identified=payload.rows,
            partner=partner,
            gates=gates,
            terms=terms or Terms(),
            cadence=Cadence.QUARTER_HOUR,
            seq=seq,
        )
        return preview(Ledger(world.url, create=False) if ledger else None, history, wanted)


def at_rest(world: World) -> dict[str, str]:
    """Return the footprint once no connection to the ledger is open."""
    world.ledger._reader.dispose()
    return footprint(world.folder)


def held(verdicts: Iterable[Verdict]) -> list[str]:
    return [verdict.name for verdict in verdicts if verdict.held]


def test_what_is_shown_is_what_the_delivery_then_does(world: World) -> None:
    world.overwrite(users(*range(1, 11)))

    shown = looked_at(world, users(*range(3, 15)))
    receipt = world.overwrite(users(*range(3, 15)))

    assert (shown.users, shown.unchanged, shown.counts.joiners, shown.counts.leavers) == (12, 8, 4, 2)
    assert (shown.users, shown.unchanged) == (receipt.users, receipt.unchanged)
    assert (shown.counts.joiners, shown.counts.leavers) == (receipt.joiners, receipt.leavers)
    assert (shown.counts.operations, shown.requests) == (receipt.planned, receipt.requests)
    assert (shown.first, shown.obstacles, shown.under_way, shown.held) == (False, (), False, False)


def test_looking_leaves_ledger_history_and_partner_as_they_are(world: World) -> None:
    world.overwrite(users(*range(1, 11)))
    with pytest.raises(Killed):  # so that there is something to be worked into membership
        world.overwrite(users(*range(20, 40)), fate=Fate(dies_at=14))
    before, requests, members = at_rest(world), len(world.partner.requests), set(world.partner.members)

    shown = looked_at(world, users(*range(20, 40)))

    assert shown.counts.operations
    assert at_rest(world) == before
    assert (len(world.partner.requests), world.partner.members) == (requests, members)


def test_without_a_ledger_everybody_joins_and_none_is_made(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ledger._reader.dispose()
    for file in tmp_path.glob("ledger*"):
        file.unlink()

    shown = looked_at(world, users(1, 2, 3, 4), ledger=False)

    assert (shown.first, shown.counts.joiners, shown.unchanged, shown.requests) == (True, 4, 0, 3)  # one establishes
    assert not list(tmp_path.glob("ledger*"))


def test_a_partner_says_itself_what_a_delivery_costs(world: World) -> None:
    partner = OneByOne(wire="pigeons", assumed_per_second=10.0)

    shown = looked_at(world, users(*range(7)), partner=partner)

    assert (shown.requests, round(shown.forecast.seconds, 3)) == (9, 0.7)
    files = MemoryFiles()
    assert looked_at(world, users(*range(3_001)), partner=files).requests == files.count_requests(3_001) == 4


@pytest.mark.parametrize("kind", WIRES)
def test_each_wire_foretells_as_many_requests_as_it_makes(tmp_path: Path, kind: str) -> None:
    world = World(tmp_path)
    with in_thread(Settings(members=10)) as standins, small_pages():
        partner = Wired(kind, standins, tmp_path).partner()
        nobody = set[str]()
        for ids in (nobody, users(*range(7)), users(*range(3, 11)), users(*range(3, 11)), nobody):
            shown = looked_at(world, ids, partner=partner)
            assert shown.requests == world.overwrite(ids, partner=partner).requests
            world.next_window()


def test_rows_that_were_refused_share_requests_where_there_are_many(world: World) -> None:
    def picky(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        if set(ids) & users(*range(300)):
            raise PartnerRequestRejected(partner.wire, 422)
        partner.apply(Sent(operation, tuple(ids)))
        return Answer(requests=1)

    world.partner.chunk_rows = 1_000
    world.overwrite(users(1_999))
    world.partner.always = picky
    world.next_window()
    with pytest.raises(DeliveryRejected):
        world.overwrite(users(*range(2_000)))
    world.partner.always = None
    world.next_window()

    shown = looked_at(world, users(*range(2_000)))

    assert shown.counts.quarantined_adds > 64
    assert shown.requests == world.overwrite(users(*range(2_000))).requests < 70


def test_who_takes_a_target_that_was_given_up_is_shown_what_it_begins_with(world: World, tmp_path: Path) -> None:
    world.overwrite(users(1, 2, 3))
    world.retire()
    world.partner.members.update(users(2, 3, 50))
    there = tmp_path / "there.csv"
    there.write_text("\n".join(["user_id", *users(2, 3, 50)]), encoding="utf-8")
    terms = Terms(initial_members=str(there))
    world.next_window()

    shown = looked_at(world, users(3, 4), terms=terms)
    receipt = world.overwrite(users(3, 4), terms=terms)

    assert (shown.counts.joiners, shown.counts.leavers) == (receipt.joiners, receipt.leavers) == (2, 2)


@pytest.mark.parametrize("dies_at", range(6, 30, 3))
def test_what_a_dead_delivery_may_have_done_counts_as_the_next_one_counts_it(world: World, dies_at: int) -> None:
    world.overwrite(users(*range(1, 11)))
    try:
        world.overwrite(users(*range(5, 20)), fate=Fate(dies_at=dies_at))
    except Killed:
        world.partner.land_late_requests()
    with clock.shifted(timedelta(minutes=15)):
        world.next_window()
        shown = looked_at(world, users(*range(8, 22)))
        receipt = world.overwrite(users(*range(8, 22)))

    assert (shown.counts.joiners, shown.counts.leavers) == (receipt.joiners, receipt.leavers)
    assert (shown.counts.repeated, shown.counts.operations) == (receipt.repeated, receipt.planned)


@pytest.mark.parametrize("dies_at", range(14, 30, 2))
def test_what_a_partner_may_still_apply_is_repeated_as_the_next_delivery_repeats_it(world: World, dies_at: int) -> None:
    """A dead delivery settles what was lost before it only if it came later than all that may still be applied."""
    terms, everybody = Terms(apply_delay=timedelta(minutes=5)), users(1, 2, 3, 4)
    world.partner.always = lost
    with pytest.raises(DeliveryStopped):
        world.overwrite(everybody, terms=terms)
    world.partner.always = None
    with clock.shifted(12 * A_MINUTE), suppress(Killed):
        world.overwrite(everybody, terms=terms, fate=Fate(dies_at=dies_at))

    with clock.shifted(30 * A_MINUTE):
        shown = looked_at(world, everybody, terms=terms)
        receipt = world.overwrite(everybody, terms=terms)
    assert (shown.counts.repeated, shown.counts.operations) == (receipt.repeated, receipt.planned)


def test_ids_whose_outcome_is_uncertain_are_shown_as_in_doubt_and_repeated(world: World) -> None:
    world.overwrite(users(1, 2, 3))
    world.partner.always = late
    with pytest.raises(Exception, match="got no clear answer"):
        world.overwrite(users(1, 2, 3, 4))

    assert looked_at(world, users(1, 2, 3, 4)).in_doubt == 1


def test_the_gates_find_what_they_would_find_and_nothing_is_recorded_as_held(world: World) -> None:
    world.overwrite(users(*range(10)))

    shown = looked_at(world, users(1), gates=Gates(max_shrink=0.5))

    assert shown.held
    assert held(shown.verdicts) == ["max_shrink"]
    assert [row.state for row in world.ledger.windows(SYNC)] == ["delivered"]


def test_an_approval_that_fits_is_named(world: World) -> None:
    world.overwrite(users(*range(10)))
    until = clock.now() + timedelta(hours=1)
    approvals.approve(world.ledger, SYNC, who="kim", why="spring cleaning", min_users=0, max_users=5, until=until)

    shown = looked_at(world, users(1), gates=Gates(max_shrink=0.5))

    assert (held(shown.verdicts), shown.held) == (["max_shrink"], False)
    assert shown.approved.startswith("kim at ")
    assert shown.approved.endswith("spring cleaning")


def test_what_would_stop_the_delivery_is_said(world: World) -> None:
    world.overwrite(users(1, 2))
    pauses.pause(world.ledger, SYNC, who="kim", why="holidays")
    world.partner.account = "another"

    paused, moved = looked_at(world, users(1, 2)).obstacles

    assert "was paused by kim: holidays" in paused
    assert "`cohort-pipelines retarget beta_users`" in moved


def test_a_file_of_initial_members_that_was_not_adopted_yet_is_taken_into_account(world: World, tmp_path: Path) -> None:
    initial_members = tmp_path / "there.csv"
    initial_members.write_text("user_id\nuser-0001\nuser-0099\n", encoding="utf-8")

    shown = looked_at(world, users(1, 2), terms=Terms(initial_members=str(initial_members)))

    assert (shown.counts.joiners, shown.counts.leavers, shown.unchanged) == (1, 1, 1)


def test_the_pace_is_assumed_until_a_delivery_was_large_enough_to_measure(world: World) -> None:
    world.overwrite(users(*range(10)))

    assumed = looked_at(world, users(*range(2_010))).forecast

    assert not looked_at(world, users(1)).pace.measured
    assert (assumed.seconds, assumed.windows, assumed.keeps_cadence) == (2.0, 1, True)  # 1,000 a second


def test_a_first_fill_that_takes_several_windows_says_how_many(world: World) -> None:
    world.partner.assumed_per_second = 100.0  # and 13 of the 15 minutes to send

    shown = looked_at(world, users(*range(5_000)))
    with_ten_times_less = pace.forecast(replace(shown.pace, seconds_per_operation=0.5), 5_000, Cadence.QUARTER_HOUR)

    assert (shown.forecast.windows, shown.forecast.capacity) == (1, 78_000)
    assert (with_ten_times_less.windows, with_ten_times_less.capacity) == (4, 1_560)
    assert not with_ten_times_less.keeps_cadence
    assert pace.forecast(shown.pace, 10**9, None).keeps_cadence  # a one-time export has no window's end


def test_a_capacity_below_twice_the_usual_change_is_called_tight() -> None:
    slow = Pace(seconds_per_operation=1.0, reading_seconds=0.0, measured=True, usual_change=391)

    assert pace.forecast(slow, 391, Cadence.QUARTER_HOUR).tight  # 780 fit into a window
    assert not pace.forecast(replace(slow, usual_change=390), 390, Cadence.QUARTER_HOUR).tight
    assert not pace.forecast(replace(slow, usual_change=None), 10_000, Cadence.QUARTER_HOUR).tight


def test_the_usual_change_leaves_the_first_fill_out(world: World) -> None:
    for upto in (200, 203, 208):
        world.overwrite(users(*range(upto)))

    found = pace.measure(world.ledger, SYNC, world.partner)

    assert found.usual_change == 4
    assert found.measured  # by the first fill
    assert found.seconds_per_operation > 0


def test_the_newest_sealed_payload_is_found_with_its_excluded_members(world: World) -> None:
    with pytest.raises(NotSealedYet):
        newest_payload(world.ledger, SYNC, world.window.key)
    for ids in (users(1), users(1, 2)):
        payload, seq = world.seal(ids)
        excluded = world.history.write(SYNC, Stage.EXCLUDED, world.window.key, pa.table({"distinct_id": ["device"]}))
        world.ledger.record_payload(seq, payload, excluded, {"anonymous": len(ids)})

    assert newest_payload(world.ledger, SYNC, world.window.key) == (seq, payload)
    assert excluded_of(world.ledger, seq) == {"anonymous": 2}


def test_another_cohort_is_told_and_what_begins_anew_is_sent_whole(world: World) -> None:
    one, other = MemoryPartner(cohort=(1, 2)), MemoryPartner(cohort=(1, 3))  # the snapshots here are of the first
    payload, seq = world.seal(users(1, 2))
    world.deliver(payload, seq, partner=one)
    _, seq = world.seal(users(1, 2))

    [moved] = looked_at(world, users(1, 2), partner=other).obstacles
    assert "was filled in the name of the cohort 2" in moved
    elsewhere = replace(other, account="elsewhere")
    anothers, *_ = looked_at(world, users(1, 2), partner=elsewhere, seq=seq).obstacles
    assert "is that of the cohort 2, and beta_users is declared for the cohort 3" in anothers

    targets.forget(world.ledger, Target(one.wire, one.host, one.account, "Beta"))
    shown = looked_at(world, users(1, 2), partner=other)
    assert (shown.obstacles, shown.first, shown.counts.joiners) == ((), False, 2)
    assert shown.requests == 2  # one makes the group
