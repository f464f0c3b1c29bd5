"""F2: killed between the partner's 200 and our own record of it: what took effect is taken for possible, and asserted.

The same by SIGKILL and over HTTP is part of the sweeps of F1.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines import clock
from cohort_pipelines.partners.wire import Answer, Operation
from cohort_pipelines_tests.delivery.world import Fate, Killed, MemoryPartner, Sent, World, users

OLD, NEW = users(*range(8)), users(*range(4, 14))


@pytest.mark.parametrize("request_number", range(1, 4))
def test_f02_killed_after_the_answer_and_before_the_record(tmp_path: Path, request_number: int) -> None:
    world = World(tmp_path)
    world.overwrite(OLD)
    fate, before = Fate(), len(world.partner.requests)

    def answered_and_killed(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        partner.apply(Sent(operation, tuple(ids)))
        fate.dead = True
        return Answer(requests=1)

    world.partner.faults = {before + request_number: answered_and_killed}
    world.next_window()
    payload, seq = world.seal(NEW)
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=fate)
    applied, sent = world.partner.members, len(world.partner.requests)
    assert applied not in (OLD, NEW)

    with clock.shifted(timedelta(minutes=2)):
        receipt = world.deliver(payload, seq)
    assert world.partner.members == NEW
    assert receipt.unsettled > 0  # the dead writer's request may still be on its way
    assert world.partner.repeated(sent) <= world.partner.workers
