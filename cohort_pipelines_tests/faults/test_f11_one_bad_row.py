"""F11: one id that is refused poisons a message: it is listed with the reason, in the receipt alone; all others go."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines_tests.faults.projects import (
    MESSAGES,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    adding,
    opened,
    said,
    sync,
    to_the_window_before,
)
from cohort_pipelines_tests.faults.traces import Traces

FLAGS, GROUP, TOLERANT = "beta_flags", "beta_group", "beta_tolerant"
DECLARED = {
    "mixpanel": MIXPANEL,
    "taplytics": TAPLYTICS,
    "apptimize": MESSAGES,
    "by_name": adding(MESSAGES, "account: by_name"),
    FLAGS: sync("taplytics", "Beta"),
    GROUP: sync("apptimize", "Beta", "recurring"),
    TOLERANT: sync("by_name", "Gamma", "recurring", more=", rejection_tolerance: 1"),
}
PARTNER = {FLAGS: "taplytics", GROUP: "apptimize", TOLERANT: "apptimize"}
REASON = {FLAGS: "HTTP 400", GROUP: "refused (400)", TOLERANT: "refused (400)"}
BAD = {FLAGS: "joiner-4", GROUP: "i_joiner-4", TOLERANT: "i_joiner-4"}


@pytest.fixture
def beta(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    with opened(tmp_path, DECLARED) as project:
        yield project


def rejected_rows(project: Faulty, name: str, window: str) -> list[dict[str, object]]:
    """Return what the newest receipt of a window lists as refused."""
    files = sorted(project.judge.files(name, "receipt", window), key=lambda file: file.stat().st_mtime_ns)
    [receipt] = pq.read_table(files[-1], columns=["rejected_rows"]).to_pylist()
    listed: list[dict[str, object]] = receipt["rejected_rows"]
    return listed


@pytest.mark.parametrize("name", PARTNER)
def test_f11_the_bad_row_is_listed_with_the_partners_reason_and_every_other_is_sent(
    beta: Faulty, name: str, traces: Traces
) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert beta.run(name).success
    before = beta.held(name)
    beta.churn(0.1)
    beta.profiles({f"joiner-{n}": {"plan": "beta", "$apptimize_user_id": f"i_joiner-{n}"} for n in range(9)})
    beta.behave(PARTNER[name], refuse=[BAD[name]])
    asked = beta.judge.asked().total()

    with clock.shifted(to_the_window_before()):
        result = beta.run(name)
        window = beta.window(name)

    wanted = beta.judge.payload(name, window)
    assert BAD[name] in wanted
    assert beta.held(name) == wanted - {BAD[name]}
    assert len(before - wanted) > 20
    assert rejected_rows(beta, name, window) == [{"operation": "add", "id": BAD[name], "reason": REASON[name]}]
    if name == TOLERANT:
        assert result.success
    else:
        assert "rejected 1 additions and 0 removals; everything else was sent" in said(result)
    if name != FLAGS:
        assert beta.judge.asked().total() - asked <= 2 + 14  # of 49 additions in one message

    found = traces.found(beta, said(result))
    assert found.outside_parquet(wanted | {"joiner-4"}) == []

    beta.behave(PARTNER[name], refuse=[])
    assert beta.run(name).success
    assert beta.held(name) == beta.judge.payload(name, beta.window(name)) == wanted
