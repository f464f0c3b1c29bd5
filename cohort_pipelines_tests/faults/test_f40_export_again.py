"""F40: a one-time export is run again after a later overwrite: superseded, told to use restore."""

from pathlib import Path

import dagster as dg

from cohort_pipelines_tests.faults.projects import MIXPANEL, TAPLYTICS, Faulty, opened, said, sync

EXPORTS = "launch_list"
DECLARED = {
    "mixpanel": MIXPANEL,
    "taplytics": TAPLYTICS,
    EXPORTS: sync("taplytics", "Launch List", "one_time"),
}


def export(project: Faulty, name: str, stages: tuple[str, ...] = ()) -> dg.ExecuteInProcessResult:
    project.instance.add_dynamic_partitions(f"{EXPORTS}_exports", [name])
    return project.run(EXPORTS, name, stages)


def restore(project: Faulty, name: str) -> dg.ExecuteInProcessResult:
    job = project.definitions.resolve_job_def("restore")
    config = {"ops": {"restore_audience": {"config": {"sync": EXPORTS, "window": name}}}}
    return job.execute_in_process(instance=project.instance, run_config=config, raise_on_error=False)


def test_f40_an_export_run_again_after_a_later_one_sends_nothing_and_names_restore(tmp_path: Path) -> None:
    with opened(tmp_path, DECLARED) as project:
        assert export(project, "launch-day").success
        first = project.judge.payload(EXPORTS, "launch-day")
        project.churn(0.2)
        assert export(project, "second-wave").success
        second, asked = project.judge.segment("Launch List"), project.judge.asked()
        assert second == project.judge.payload(EXPORTS, "second-wave") != first

        for stages in ((), ("destination_upload",)):
            again = export(project, "launch-day", stages)

            assert again.success
            assert not again.asset_materializations_for_node(f"{EXPORTS}__destination_upload")
            assert project.judge.segment("Launch List") == second
            assert project.judge.asked() == asked
            log = "\n".join(entry.user_message for entry in project.instance.all_logs(again.run_id))
            assert "Nothing was sent; the newer audience stays." in log
            assert "cohort-pipelines restore launch_list launch-day" in log

        restored = restore(project, "launch-day")
        assert said(restored) == ""
        assert project.judge.segment("Launch List") == first
        assert project.judge.payload(EXPORTS, "launch-day") == first
