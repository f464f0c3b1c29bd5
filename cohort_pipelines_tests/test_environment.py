import pytest

from cohort_pipelines.environment import resolve
from cohort_pipelines.errors import MissingVariable, VariableInvalid

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
