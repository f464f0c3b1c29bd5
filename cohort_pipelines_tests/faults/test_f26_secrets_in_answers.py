"""F26: a partner repeats in its refusal what it was asked, key and URL and all; nothing of that is kept anywhere."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.faults.projects import (
    MIXPANEL,
    Faulty,
    opened,
    said,
    sync,
    to_the_window_before,
    without_waiting,
)
from cohort_pipelines_tests.faults.traces import Traces
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE as GROUP
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS as SEGMENT

SECRET = "s3cr3t/+=key"
USERNAME = "us3r-n4me"
PATH_KEY = "p4th-k3y"
FORMS = (
    SECRET,
    quote(SECRET, safe=""),
    quote(SECRET),
    base64.b64encode(f"{USERNAME}:{SECRET}".encode()).decode(),
    PATH_KEY,
    "s3cr3t",
)
HOOK = """
type: cohort_pipelines.orchestration.WebhookDestination
attributes: {url: "{{ env.HOOK_URL }}", account: %s}
"""
APPTIMIZE = """
type: cohort_pipelines.orchestration.ApptimizeDestination
attributes: {region: eu, delivery: http, url: "{{ env.HOOK_URL }}", token: "{{ env.HOOK_SECRET }}"%s}
"""
TAPLYTICS = """
type: cohort_pipelines.orchestration.TaplyticsDestination
attributes: {api_key: "{{ env.HOOK_SECRET }}", url: "{{ env.TAPLYTICS_URL }}"}
"""
SECRETLY = ', secret: "{{ env.HOOK_SECRET }}"'
REPLACING = ", members: replace_session"
DESTINATIONS: Mapping[str, str] = {
    "taplytics": TAPLYTICS,
    "apptimize": APPTIMIZE % "",
    "apptimize_replacing": APPTIMIZE % (", account: replacing" + REPLACING),
    "key_in_the_url": HOOK % "one",
    "key_in_the_url_replacing": HOOK % ("two" + REPLACING),
    "basic": HOOK % ('three, auth: basic, username: "{{ env.HOOK_USER }}"' + SECRETLY),
    "bearer": HOOK % ("four, auth: bearer" + SECRETLY),
    "header": HOOK % ("five, auth: header, parameter: x-key" + SECRETLY),
    "query": HOOK % ("six, auth: query, parameter: api-key" + SECRETLY),
    "query_replacing": HOOK % ("seven, auth: query, parameter: api-key" + SECRETLY + REPLACING),
}


@pytest.fixture
def telling(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
) -> Iterator[Faulty]:
    """Return a project with a sync for each way of signing in, whose ids everybody could search a log for."""
    declared = {"mixpanel": MIXPANEL, **DESTINATIONS}
    for name in DESTINATIONS:
        declared[f"to_{name}"] = sync(name, "Beta", "recurring" if name.startswith("apptimize") else "dynamic")
    without_waiting(monkeypatch)
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK_USER", USERNAME)
    with opened(tmp_path, declared, Settings(members=100, page_size=100)) as project:
        url = httpx.URL(project.standins.apptimize_url).copy_with(path=f"/cohorts/{PATH_KEY}")
        monkeypatch.setenv("HOOK_URL", f"{url}?k={PATH_KEY}")
        yield project


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500])
def test_f26_what_a_partner_repeats_of_a_request_is_kept_nowhere(telling: Faulty, status: int, traces: Traces) -> None:
    for service, path in (("taplytics", "/v2/users"), ("apptimize", "/cohorts")):
        telling.fault(service, match=path, kind="echo", status=status, times=None)

    sentences = {name: said(telling.run(f"to_{name}")) for name in DESTINATIONS}

    assert all(f"HTTP {status}" in sentence or "refused" in sentence for sentence in sentences.values()), sentences
    assert telling.judge.asked().total() >= len(DESTINATIONS)
    ids = {each for name in DESTINATIONS for each in telling.judge.payload(f"to_{name}", telling.window(f"to_{name}"))}
    assert len(ids) > 80
    found = traces.found(telling, *sentences.values())
    assert found.with_any(FORMS) == []
    assert found.outside_parquet(ids) == []


@pytest.mark.parametrize("name", [SEGMENT, GROUP])
def test_f26_a_row_that_is_refused_with_an_echo_is_listed_without_it(
    project: Faulty, name: str, traces: Traces
) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(name).success
    project.profiles(
        {f"new-{number}": {"plan": "beta", "$apptimize_user_id": f"i_new-{number}"} for number in range(9)}
    )
    bad = {SEGMENT: "new-4", GROUP: "i_new-4"}[name]
    service, path = {SEGMENT: ("taplytics", "/v2/users"), GROUP: ("apptimize", "/cohorts")}[name]
    project.fault(service, match=path, contains=f'"{bad}"', kind="echo", status=400, times=None, after=0)

    sentence = said(project.run(name))

    credentials = project.standins.credentials
    key = {SEGMENT: credentials.taplytics_key, GROUP: credentials.apptimize_token}[name]
    wanted = project.judge.payload(name, project.window(name))
    assert bad in wanted
    assert project.held(name) == wanted - {bad}
    found = traces.found(project, sentence)
    assert found.with_any([key]) == []
    assert found.outside_parquet(wanted | {"new-4"}) == []
