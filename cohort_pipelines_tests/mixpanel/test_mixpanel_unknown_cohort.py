"""What Mixpanel answers for a cohort that does not exist is published nowhere: no decision may need its text."""

from collections.abc import Iterator
from itertools import product

import pytest

from cohort_pipelines.core.errors import MixpanelCohortUnknown, MixpanelRequestRefused, Transient
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Window
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project
from cohort_pipelines.snapshots.taking import take_snapshot

BODIES = (
    "",
    '{"error": ""}',
    '{"error": "Bad filter", "status": "error"}',
    '{"request": "/api/query/engage", "error": "cohort 5 does not exist"}',
)


@pytest.fixture(autouse=True)
def _as_at_the_start(standins: InThread) -> Iterator[None]:
    yield
    standins.standins.mixpanel.engage.unknown_cohort = None


@pytest.mark.parametrize("answer", [*product((400, 403, 404), BODIES)])
def test_an_unknown_cohort_files_nothing_whatever_the_answer(
    standins: InThread, project: Project, history: History, window: Window, answer: tuple[int, str]
) -> None:
    standins.standins.mixpanel.engage.unknown_cohort = answer
    with pytest.raises((MixpanelCohortUnknown, MixpanelRequestRefused), match="cohort 5") as refused:
        take_snapshot(project, 5, history, sync="beta_users", window=window, properties=())
    assert not isinstance(refused.value, Transient)
    assert "Nothing was sent" in str(refused.value)
    assert standins.standins.mixpanel_faults.requests["/api/query/engage", answer[0]] == 1
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []
