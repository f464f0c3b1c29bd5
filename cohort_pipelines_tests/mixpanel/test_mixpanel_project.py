import pytest

from cohort_pipelines.mixpanel import Project
from cohort_pipelines.mixpanel.project import Region


def project(region: Region = "us", api_url: str | None = None, workspace_id: int | None = None) -> Project:
    return Project(
        project_id=3,
        region=region,
        service_account="exporter",
        secret="a-very-secret-secret",
        api_url=api_url,
        workspace_id=workspace_id,
    )


@pytest.mark.parametrize(
    ("region", "host"),
    [("us", "https://mixpanel.com"), ("eu", "https://eu.mixpanel.com"), ("in", "https://in.mixpanel.com")],
)
def test_each_region_has_its_host(region: Region, host: str) -> None:
    assert project(region).base_url == host


def test_another_host_can_stand_in() -> None:
    assert project("eu", api_url="http://127.0.0.1:8001").base_url == "http://127.0.0.1:8001"


def test_a_data_view_is_named_beside_the_project() -> None:
    assert project().query == {"project_id": 3}
    assert project(workspace_id=7).query == {"project_id": 3, "workspace_id": 7}


def test_the_secret_is_not_shown() -> None:
    assert "a-very-secret-secret" not in repr(project())
