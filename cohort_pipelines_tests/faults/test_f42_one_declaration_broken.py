"""F42: one declaration is wrong; it alone is left out, and is shown and alerted with the reason."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines_tests.faults.projects import MIXPANEL, TAPLYTICS, Faulty, adding, opened, redeclared, sync
from cohort_pipelines_tests.receivers import http_receiver

pytestmark = pytest.mark.usefixtures("at_an_opening")

ALERTS = """
type: cohort_pipelines.orchestration.Alerts
attributes: {webhook: "{{ env.HOOK_URL }}"}
"""
BETA = sync("taplytics", "Beta")
SOUND = {"mixpanel": MIXPANEL, "taplytics": TAPLYTICS, "beta": BETA, "on_call": ALERTS}


def export(name: str, destination: str = "taplytics") -> str:
    return sync(destination, name, "one_time")


def reading(source: str, target: str) -> str:
    return sync("taplytics", target).replace("mixpanel", source)


WRONG = {
    "unknown_key": (export("A").replace("type: one_time", "tpye: one_time"), "tpye: there is no such attribute"),
    "doubled_key": (export("B").replace("one_time", "one_time, cohort_id: 5"), "stands twice, in lines 2 and 2"),
    "no_yaml": (export("C").replace("target:", "target: ["), "the file is no YAML"),
    "no_such_type": (export("D").replace("CohortSync", "CohortSink"), "CohortSink"),
    "a_list": ("- a list", "cannot be read"),
    "nothing": ("", "cannot be read"),
    "nowhere": (export("E", "nowhere_else"), "the destination 'nowhere_else', which no folder declares"),
    "twin_one": (export("F"), "both deliver to 'F'"),
    "twin_two": (export("F"), "both deliver to 'F'"),
    "broken_end": (adding(TAPLYTICS, "account: broken").replace("api_key:", "api_kee:"), "api_kee: there is no such"),
    "to_broken_end": (export("G", "broken_end"), "needs the destination 'broken_end', which cannot be loaded"),
    "no_end": (TAPLYTICS.replace("Destination", "Destiny"), "Destiny"),
    "to_no_end": (sync("no_end", "H"), "needs the destination 'no_end', which cannot be loaded"),
    "like_one": (adding(TAPLYTICS, "account: like"), "deliver to the same place"),
    "like_two": (adding(TAPLYTICS, "account: like"), "deliver to the same place"),
    "to_like_one": (sync("like_one", "I"), "deliver to the same place"),
    "broken_project": (MIXPANEL + "  region: mars\n", "region: input should be 'us'"),
    "of_broken_project": (reading("broken_project", "J"), "needs the source 'broken_project', which cannot be loaded"),
    "beyond_budget": (reading("cheap", "L").replace("2025", "2026"), "need 1 queries an hour, and 0.8 of its 1"),
    "pager": (ALERTS.replace("{webhook", "{syncs: [nobody], webhook"), "name the sync 'nobody'"),
    "Odd-Name": (export("M"), "The name 'Odd-Name' cannot be used"),
}
BESIDE = {
    "cheap": MIXPANEL.replace("2529987", "7") + "  queries_per_hour: 1\n",
    "in_budget": reading("cheap", "K"),
}


def tick(project: Faulty) -> list[str]:
    """Evaluate the schedule as the daemon does, and return the syncs that it launches."""
    repository = project.definitions.get_repository_def()
    schedule = project.definitions.resolve_schedule_def("dynamic_syncs")
    with dg.build_schedule_context(
        instance=project.instance,
        repository_def=repository,
        scheduled_execution_time=clock.now(),
        resources={"records": Records()},
    ) as context:
        requests = schedule.evaluate_tick(context).run_requests or []
    return [name for request in requests for name in request.tags["cohort_pipelines/syncs"].split(",")]


def shown(project: Faulty) -> Mapping[str, str]:
    """Run what the sensor of wrong declarations asks for; return what each failed with, by its asset's group."""
    repository = project.definitions.get_repository_def()
    with dg.build_sensor_context(instance=project.instance, repository_def=repository) as context:
        asked = repository.get_sensor_def("unloadable_declarations").evaluate_tick(context).run_requests
    graph, found = project.definitions.resolve_asset_graph(), {}
    for request in asked or []:
        [key] = request.asset_selection or []
        job = project.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key})
        result = job.execute_in_process(instance=project.instance, raise_on_error=False)
        [failure] = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
        assert failure.user_failure_data is not None
        found[graph.get(key).group_name] = failure.user_failure_data.description or ""
    return found


def alerted(project: Faulty, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, tuple[str, str]]:
    """Evaluate the alerts' sensor; return the state and the detail that its webhook got, by name."""
    repository = project.definitions.get_repository_def()
    with http_receiver("/hook") as hook:
        monkeypatch.setenv("HOOK_URL", hook.url)
        with dg.build_sensor_context(
            instance=project.instance, repository_def=repository, resources={"records": Records()}
        ) as context:
            repository.get_sensor_def("on_call").evaluate_tick(context)
        return {each["sync"]: (each["state"], each["detail"]) for each in hook.bodies}


def test_f42_wrong_declarations_are_red_and_alerted_while_their_siblings_deliver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {name: text for name, (text, _) in WRONG.items()}
    with opened(tmp_path, SOUND | wrong | BESIDE) as project:
        carried = tick(project)

        assert carried == ["beta", "in_budget"]
        assert project.run("beta").success
        assert project.held("beta") == project.judge.payload("beta", project.window("beta"))
        found, told = shown(project), alerted(project, monkeypatch)
        assert {*found} == {*wrong} - {"Odd-Name"} | {"Odd_Name"}
        assert {*told} == {*wrong}
        for name, (_, says) in WRONG.items():
            assert says in told[name][1]
            assert told[name] == ("failing", found[name.replace("-", "_")])


def test_f42_a_declaration_that_is_corrected_is_alerted_as_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, SOUND | {"launch": WRONG["unknown_key"][0]}) as project:
        assert alerted(project, monkeypatch)["launch"][0] == "failing"

        corrected = redeclared(project, tmp_path, SOUND | {"launch": export("A")})

        assert alerted(corrected, monkeypatch)["launch"][0] == "recovered"
        assert not [each for each in corrected.definitions.sensors or [] if each.name == "unloadable_declarations"]
