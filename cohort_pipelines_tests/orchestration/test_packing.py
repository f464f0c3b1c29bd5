from hypothesis import given
from hypothesis import strategies as st

from cohort_pipelines.orchestration.packing import pack


def test_quick_syncs_share_a_run_and_a_slow_one_runs_alone() -> None:
    assert pack({"slow": 400, "a": 100, "b": 100, "c": 100}, capacity=300) == [["slow"], ["a", "b", "c"]]


def test_a_run_is_filled_no_further_than_its_capacity() -> None:
    assert pack({"a": 200, "b": 200, "c": 90}, capacity=300) == [["a", "c"], ["b"]]


def test_nothing_due_is_no_run() -> None:
    assert pack({}, capacity=300) == []


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.floats(min_value=0, max_value=1000), max_size=40),
    st.floats(min_value=1, max_value=500),
)
def test_each_sync_runs_once_and_no_shared_run_is_too_long(expected: dict[str, float], capacity: float) -> None:
    runs = pack(expected, capacity)

    assert sorted(name for run in runs for name in run) == sorted(expected)
    assert all(len(run) == 1 or sum(expected[name] for name in run) <= capacity * (1 + 1e-9) for run in runs)
