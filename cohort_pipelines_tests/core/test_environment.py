import stat
from pathlib import Path

import pytest

from cohort_pipelines.core import settings
from cohort_pipelines.core.environment import file_values, resolve
from cohort_pipelines.core.errors import EnvironmentFileInvalid, MissingVariable, VariableInvalid

REFERENCE = "{{ env.A_SECRET }}"


@pytest.mark.parametrize("value", ["s3cr3t\n", "s3cr3t\r\n", " \ts3cr3t ", "\u00a0s3cr3t"])
def test_white_space_and_line_breaks_around_a_value_do_not_count(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("A_SECRET", value)

    assert resolve(f" {REFERENCE}/x", wanted_for="it") == "s3cr3t/x"


@pytest.mark.parametrize("value", ["s3cr3t\nsecond", "s3cr3t\r\nsecond\n", "s3\x7fcr3t"])
def test_a_line_break_within_a_value_is_told_by_the_variables_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("A_SECRET", value)

    said = r"variable A_SECRET holds a line break .*; it needs a value of one line\. Nothing was sent"
    with pytest.raises(VariableInvalid, match=said) as refused:
        resolve(REFERENCE, wanted_for="it")
    assert "s3" not in str(refused.value)


@pytest.mark.parametrize("value", ["", " \n"])
def test_a_value_of_nothing_but_white_space_is_missing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("A_SECRET", value)

    with pytest.raises(MissingVariable, match="A_SECRET is not set"):
        resolve(REFERENCE, wanted_for="it")


def test_a_line_of_the_file_that_sets_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# as printed\nA_SECRET=s3cr3t\nMIXPANEL_URL    http://127.0.0.1:1\n", encoding="utf-8"
    )

    with pytest.raises(EnvironmentFileInvalid, match=r"\.env has no NAME=value in line 3") as refused:
        file_values(tmp_path)
    assert "127" not in str(refused.value)


def test_others_lose_their_rights_on_what_is_ours_in_the_data_folder_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.DATA, raising=False)
    data = tmp_path / "data"
    for folder in (data, data / "dagster", data / "history", data / "anothers"):
        folder.mkdir()
        folder.chmod(0o755)
    (data / "ledger.sqlite").touch()
    (data / "ledger.sqlite").chmod(0o644)

    with settings.in_project(tmp_path):
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.iterdir())} == {
            "data": 0o755,
            "anothers": 0o755,
            "dagster": 0o700,
            "history": 0o700,
            "ledger.sqlite": 0o600,
        }


@pytest.mark.parametrize("data", ["file/x", "loop/x", "x" * 300])
def test_a_data_folder_that_cannot_be_looked_at_is_left_to_who_writes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv(settings.DATA, data)

    with settings.in_project(tmp_path):
        assert settings.data_root() == str(tmp_path / data)
