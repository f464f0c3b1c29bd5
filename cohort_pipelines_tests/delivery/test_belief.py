from datetime import UTC, datetime, timedelta
from itertools import product

import pyarrow as pa
import pytest

from cohort_pipelines.delivery.belief import BELIEF_SCHEMA, CHUNK_SCHEMA, SETTLES_AFTER, Belief, fold
from cohort_pipelines.delivery.plan import PLAN_SCHEMA, PlanCounts, make_plan, seal_plan
from cohort_pipelines.history import History, Stage, StoredFile

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
Row = tuple[str, str, datetime | None]


def believe(history: History, *rows: Row) -> Belief:
    if not rows:
        return Belief()
    columns = dict(zip(BELIEF_SCHEMA.names, zip(*sorted(rows), strict=True), strict=True))
    table = pa.Table.from_pydict(columns, schema=BELIEF_SCHEMA)
    return Belief(history.write("s", Stage.BELIEF, "base", table), sum(row[2] is not None for row in rows))


def plan_of(history: History, *rows: tuple[str, str]) -> StoredFile:
    table = pa.Table.from_pylist([dict(zip(PLAN_SCHEMA.names, row, strict=True)) for row in rows], schema=PLAN_SCHEMA)
    return history.write("s", Stage.PLAN, "w", table)


def chunks(*rows: tuple[int, int, str, datetime, datetime]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(CHUNK_SCHEMA.names, row, strict=True)) for row in rows], schema=CHUNK_SCHEMA)


def read(history: History, belief: Belief) -> list[Row]:
    assert belief.file is not None
    return [tuple(row.values()) for batch in history.batches(belief.file) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("operation", "state", "before", "after"),
    [
        ("add", "acked", None, "IN"),
        ("add", "acked", "OUT", "IN"),
        ("remove", "acked", "MAYBE", "OUT"),
        ("add", "doubted", None, "IN"),
        ("remove", "doubted", "MAYBE", "OUT"),
        ("add", "refused", None, "MAYBE"),
        ("remove", "refused", "IN", "MAYBE"),
        ("add", "unknown", "OUT", "MAYBE"),
        ("remove", "intent", "IN", "MAYBE"),
        ("add", "refused_whole", "OUT", "OUT"),
        ("add", "refused_whole", None, None),
    ],
)
def test_what_an_outcome_makes_of_belief(
    tmp_history: History, operation: str, state: str, before: str | None, after: str | None
) -> None:
    base = believe(tmp_history, ("other", "IN", None), *([("u", before, None)] if before else []))
    outcome = chunks((0, 1, state, NOON, NOON))
    rows = dict(
        row[:2] for row in read(tmp_history, fold(tmp_history, base, plan_of(tmp_history, (operation, "u")), outcome))
    )
    assert rows == {"other": "IN"} | ({"u": after} if after else {})


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(("state", "held"), [("intent", "MAYBE"), ("unknown", "MAYBE"), ("doubted", "IN")])
def test_only_a_later_acknowledgement_settles(tmp_history: History, state: str, held: str, later: bool) -> None:
    plan = plan_of(tmp_history, ("add", "u"))
    doubted = fold(tmp_history, Belief(), plan, chunks((0, 1, state, NOON - SETTLES_AFTER, NOON)))
    assert (doubted.unsettled, read(tmp_history, doubted)) == (1, [("u", held, NOON)])

    again = NOON + SETTLES_AFTER + timedelta(microseconds=int(later))
    settled = fold(tmp_history, doubted, plan, chunks((0, 1, "acked", again, again)))
    assert (settled.unsettled, read(tmp_history, settled)) == (int(not later), [("u", "IN", None if later else NOON)])


@pytest.mark.parametrize(("state", "held"), [("unknown", "MAYBE"), ("doubted", "IN")])
@pytest.mark.parametrize("minutes", [5, 30])
def test_a_second_doubt_counts_from_the_newer_one(tmp_history: History, state: str, held: str, minutes: int) -> None:
    base = believe(tmp_history, ("u", "MAYBE", NOON))
    later = NOON + timedelta(minutes=minutes)
    folded = fold(tmp_history, base, plan_of(tmp_history, ("add", "u")), chunks((0, 1, state, later, later)))
    assert read(tmp_history, folded) == [("u", held, later)]


def test_rows_that_were_never_begun_stay_as_they_were(tmp_history: History) -> None:
    plan = plan_of(tmp_history, *(("add", each) for each in "abcdefgh"))
    outcome = chunks((0, 2, "acked", NOON, NOON), (3, 4, "unknown", NOON, NOON), (6, 7, "acked", NOON, NOON))
    folded = fold(tmp_history, believe(tmp_history, ("c", "OUT", None), ("z", "IN", None)), plan, outcome)
    assert [row[:2] for row in read(tmp_history, folded)] == [
        ("a", "IN"),
        ("b", "IN"),
        ("c", "OUT"),
        ("d", "MAYBE"),
        ("g", "IN"),
        ("z", "IN"),
    ]


def test_who_is_in_or_may_be_is_held(tmp_history: History) -> None:
    base = believe(tmp_history, ("in", "IN", None), ("out", "OUT", None), ("maybe", "MAYBE", None))
    plan = plan_of(tmp_history, *(("add", each) for each in "abc"), ("remove", "in"))
    outcome = chunks((0, 1, "acked", NOON, NOON), (1, 2, "unknown", NOON, NOON), (3, 4, "acked", NOON, NOON))
    assert fold(tmp_history, base, plan, outcome).held == 3  # a, b and maybe


def test_nothing_sent_makes_no_new_file(tmp_history: History) -> None:
    base = believe(tmp_history, ("u", "IN", None))
    assert fold(tmp_history, base, plan_of(tmp_history, ("add", "v")), chunks()) is base


def test_the_plan_for_every_state_of_belief(tmp_history: History) -> None:
    rows = [
        (f"{wanted}-{state}-{'unsettled' if since else 'settled'}", state, since)
        for wanted, state, since in product(["member", "stranger"], ["IN", "OUT", "MAYBE"], [None, NOON])
    ]
    members = sorted([row[0] for row in rows if row[0].startswith("member")] + ["member-new"])
    payload = tmp_history.write("s", Stage.PARTNER_PAYLOAD, "w", pa.table({"partner_user_id": members}))
    belief = believe(tmp_history, *rows)
    with make_plan(tmp_history, payload, belief) as batches:
        planned = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]

    assert planned == [
        ("add", "member-IN-unsettled", False),
        ("add", "member-MAYBE-settled", True),
        ("add", "member-MAYBE-unsettled", True),
        ("add", "member-OUT-settled", True),
        ("add", "member-OUT-unsettled", True),
        ("add", "member-new", True),
        ("remove", "stranger-IN-settled", True),
        ("remove", "stranger-IN-unsettled", True),
        ("remove", "stranger-MAYBE-settled", True),
        ("remove", "stranger-MAYBE-unsettled", True),
        ("remove", "stranger-OUT-unsettled", False),
    ]
    assert seal_plan(tmp_history, payload, belief, sync="s", window="w")[1] == PlanCounts(6, 5, joiners=5, leavers=4)
