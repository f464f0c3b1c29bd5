"""The jobs that somebody launches by name, run in this process."""

import dagster as dg

from cohort_pipelines_tests.orchestration.demo_project import Project

OPS = {"restore": "restore_audience", "retarget": "move_target", "retire": "give_up_target"}


def operate(project: Project, job: str, **config: object) -> dg.ExecuteInProcessResult:
    """Run the job `restore`, `retarget` or `retire` of a project."""
    return project.definitions.resolve_job_def(job).execute_in_process(
        instance=project.instance, run_config={"ops": {OPS[job]: {"config": config}}}, raise_on_error=False
    )
