from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from cohort_pipelines.delivery import AttemptState
from cohort_pipelines.errors import DeliveryStopped, NewerFilePublished, PartnerOutcomeUnknown
from cohort_pipelines.history import Stage
from cohort_pipelines.partners.wire import Published
from cohort_pipelines_tests.delivery.world import SYNC, World, users


@dataclass
class MemoryFiles:
    """Takes the whole audience at once, as a file wire does."""

    wire: str = "files"
    host: str = ""
    account: str = ""
    current: set[str] = field(default_factory=set)
    published: list[tuple[int, str]] = field(default_factory=list)
    fails: bool = False
    newer: bool = False

    def publish(self, target: str, ids: Iterable[Sequence[str]], generation: int, checksum: str) -> Published:
        assert target == "Beta"
        if self.newer:
            raise NewerFilePublished(self.wire, generation + 1, generation)
        self.current = {each for batch in ids for each in batch}
        if self.fails:
            raise PartnerOutcomeUnknown(self.wire, "disk full")
        self.published.append((generation, checksum))
        return Published("current.csv", 1, len(self.current))

    def holds(self, target: str, checksum: str) -> bool:
        assert target == "Beta"
        return bool(self.published) and self.published[-1][1] == checksum


def test_the_whole_audience_is_published_and_belief_follows(world: World) -> None:
    files = MemoryFiles()
    payload, seq = world.seal(users(1, 2, 3))
    first = world.deliver(payload, seq, partner=files)
    world.next_window()
    payload, seq = world.seal(users(2, 3, 4, 5))
    second = world.deliver(payload, seq, partner=files)

    assert files.current == users(2, 3, 4, 5)
    assert files.published == [(1, first.payload_checksum), (2, second.payload_checksum)]
    assert (second.joiners, second.leavers, second.unchanged, second.acknowledged) == (2, 1, 2, 3)
    assert second.state is AttemptState.DELIVERED


@pytest.mark.parametrize("audience", [set(), users(1, 2)])
def test_an_unchanged_audience_is_published_once(world: World, audience: set[str]) -> None:
    files = MemoryFiles()
    for _ in range(2):
        payload, seq = world.seal(audience)
        world.deliver(payload, seq, partner=files)
        world.next_window()
    assert len(files.published) == 1


@pytest.mark.parametrize("audience", [set(), users(1, 2)])
def test_a_file_that_is_gone_is_published_again_though_the_audience_is_the_same(
    world: World, audience: set[str]
) -> None:
    files = MemoryFiles()
    for _ in range(3):
        payload, seq = world.seal(audience)
        assert world.deliver(payload, seq, partner=files).state is AttemptState.DELIVERED
        world.next_window()
        files.published.clear()
        files.current = set()
    payload, seq = world.seal(audience)
    world.deliver(payload, seq, partner=files)
    assert files.published == [(4, payload.checksum)]
    assert files.current == audience


def test_a_newer_file_stops_and_nothing_is_believed_to_have_changed(world: World) -> None:
    files = MemoryFiles(newer=True)
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryStopped, match="newer than 1"):
        world.deliver(payload, seq, partner=files)
    assert world.history.versions(SYNC, Stage.BELIEF, world.window.key) == []  # not even that it may have changed


def test_a_file_that_may_not_be_there_is_published_again(world: World) -> None:
    files = MemoryFiles(fails=True)
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryStopped, match="disk full"):
        world.deliver(payload, seq, partner=files)
    assert world.ledger.newest_delivered(SYNC) is None

    files.fails = False
    assert world.deliver(payload, seq, partner=files).acknowledged == 2
    assert files.published == [(2, payload.checksum)]
