from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS, Project


def test_both_syncs_make_segment_and_group_equal_their_payloads(project: Project) -> None:
    for name in (TAPLYTICS, APPTIMIZE):
        assert project.run(name).success

    assert project.segment == project.payload(TAPLYTICS, project.window(TAPLYTICS))
    assert project.group == project.payload(APPTIMIZE, project.window(APPTIMIZE))
    assert len(project.segment) > len(project.group) > 300
