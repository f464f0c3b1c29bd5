"""F45: a receiver that trims ids, which were sent with white space at an end before that was excluded."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.membership import plan
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines_tests.delivery.world import (
    IN_MEMORY,
    LAST_TRY,
    Fate,
    Killed,
    MemoryPartner,
    Sent,
    World,
    one_duckdb,
)
from cohort_pipelines_tests.faults.wires import HTTP_WIRES, Wired

LEASE_IS_OVER = timedelta(minutes=2)
LATER = LAST_TRY + SETTLES_AFTER + timedelta(seconds=1)
BEFORE = {"a", "a ", " b", "b", "c", "\u00a0d"}


@pytest.fixture(autouse=True)
def _one_duckdb() -> Iterator[None]:
    with one_duckdb():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def sending_white_space() -> Iterator[None]:
    """Add ids as they are, as was done before those with white space at an end were excluded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_PAYLOAD", "(SELECT partner_user_id AS id FROM read_parquet($payload))")
        yield


@dataclass
class TrimmingPartner(MemoryPartner):
    """A partner that takes white space off the ends of each id."""

    def apply(self, sent: Sent) -> None:
        super().apply(Sent(sent.operation, tuple(each.strip() for each in sent.ids)))


def filled(folder: Path, partner: MemoryPartner) -> World:
    """Return a world in which BEFORE was delivered to ``partner``, with late requests still possible."""
    world = World(folder, partner)
    with sending_white_space():
        world.overwrite(BEFORE)
    world.next_window()
    return world


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize("kind", HTTP_WIRES)
def test_f45_a_group_equals_the_payload_after_ids_with_white_space_were_sent(
    folder: Path, kind: str, *, trims: bool
) -> None:
    with in_thread(Settings(members=10)) as standins:
        wired = Wired(kind, standins, folder)
        wired.behave(trims=trims, members="replace" if kind == "replace_session" else "add")
        world = World(wired.folder)
        with sending_white_space():
            world.overwrite({"a", "a ", " b", "b", "c"}, partner=wired.partner())
        assert wired.members == ({"a", "b", "c"} if trims or kind == "replace_session" else {"a", "a ", " b", "b", "c"})
        world.next_window()

        receipt = world.overwrite({"a", "b", "c"}, partner=wired.partner())
        assert wired.members == {"a", "b", "c"}
        assert receipt.in_doubt == 0
        world.next_window()
        assert world.overwrite({"a", "b", "c"}, partner=wired.partner()).requests == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TrimmingPartner, MemoryPartner])
def test_f45_killed_anywhere_while_ids_with_white_space_go_it_ends_exact(
    folder: Path, kind: type[MemoryPartner]
) -> None:
    point, alive, audience = 0, True, {"a", "d", "e", "g"}
    while alive:
        point += 1
        world = filled(folder / str(point), kind(chunk_rows=2))
        payload, seq = world.seal(audience)
        try:
            world.deliver(payload, seq, fate=Fate(dies_at=point))
            alive = False
        except Killed:
            world.next_window()
            with clock.shifted(LEASE_IS_OVER):
                world.overwrite(audience)
        assert world.partner.members == audience, point  # which a removal of "a " would have left without "a"
        world.partner.land_late_requests()
        world.next_window()
        with clock.shifted(LATER):
            receipt = world.overwrite(audience)
        assert (world.partner.members, receipt.in_doubt) == (audience, 0), point
        shutil.rmtree(folder / str(point))
    assert point > 20


def test_f45_an_older_audience_is_put_back_without_ids_that_have_white_space(folder: Path) -> None:
    world = filled(folder, TrimmingPartner())
    window = world.ledger.windows("beta_users")[0].key
    world.overwrite({"x"})
    world.next_window()

    world.restore(window)

    assert world.partner.members == {"a", "b", "c"}
    assert not any(each != each.strip() for sent in world.partner.requests[-2:] for each in sent.ids)
