from dataclasses import replace
from pathlib import Path

from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.kept import keep, kept_settings
from cohort_pipelines.devtools.standins.server import running


def test_stand_ins_come_back_at_the_same_ports_with_as_many_members(tmp_path: Path) -> None:
    new = replace(kept_settings(tmp_path, members=20), taplytics=Behaviour(refuse=("bad",)))
    with running(new) as first:
        keep(tmp_path, new, first)

    known = kept_settings(tmp_path, members=30)
    with running(known) as second:
        assert second == first

    assert (known.members, known.taplytics) == (20, new.taplytics)
    assert known.state_file == str(tmp_path / "standins" / "state")
    assert (tmp_path / "standins" / "state").is_file()


def test_the_folder_is_private(tmp_path: Path) -> None:
    kept_settings(tmp_path / "data")
    assert (tmp_path / "data" / "standins").stat().st_mode & 0o077 == 0
