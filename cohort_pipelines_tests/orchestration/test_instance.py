from collections.abc import Callable
from pathlib import Path

import pytest

from cohort_pipelines.core.errors import RunsNotRecorded
from cohort_pipelines.orchestration.instance import instance_at


@pytest.fixture
def home(tmp_path: Path) -> Path:
    settings = f"telemetry: {{enabled: false}}\nstorage:\n  sqlite: {{base_dir: {tmp_path}/records}}\n"
    (tmp_path / "dagster.yaml").write_text(settings, encoding="utf-8")
    return tmp_path


def in_the_way(home: Path) -> None:
    (home / "records").touch()


def no_database(home: Path) -> None:
    for part in ("history", "history/runs"):
        (home / "records" / part).mkdir(parents=True)
    (home / "records" / "history" / "runs.db").write_bytes(b"no database" * 1000)


@pytest.mark.parametrize(("what", "cause"), [(in_the_way, "File exists"), (no_database, "file is not a database")])
def test_records_that_cannot_be_used_are_one_sentence_with_their_place(
    home: Path, what: Callable[[Path], None], cause: str
) -> None:
    what(home)
    with (
        pytest.raises(RunsNotRecorded, match=f"the dagster.yaml in {home} names, cannot be used: .*{cause}"),
        instance_at(str(home)) as instance,
    ):
        instance.get_runs()


def test_an_instance_is_opened_and_an_error_of_whoever_uses_it_is_left_alone(home: Path) -> None:
    def use() -> None:
        with instance_at(str(home)) as instance:
            assert instance.get_runs() == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("storage: {custom: {module: not_installed, class: Storage}}", "No module named 'not_installed'"),
        ("storage: {", "the file is no YAML: .* line 1"),
        ("nonsense: 1", 'Received unexpected config entry "nonsense" at the root'),
        ("concurrency: {runs: {max_concurrent_runs: s3cr3t}}", "at path root:concurrency:runs:max_concurrent_runs"),
        ("- a list", "Expected YAML .* to parse to dictionary"),
        ("storage: {sqlite: {base_dir: {env: COHORT_PIPELINES_NOT_SET}}}", "COHORT_PIPELINES_NOT_SET"),
    ],
)
def test_a_wrong_dagster_yaml_is_one_sentence(home: Path, content: str, cause: str) -> None:
    (home / "dagster.yaml").write_text(content, encoding="utf-8")

    with pytest.raises(RunsNotRecorded, match=f"cannot be used: .*{cause}") as refused, instance_at(str(home)):
        pass
    assert "s3cr3t" not in str(refused.value)
