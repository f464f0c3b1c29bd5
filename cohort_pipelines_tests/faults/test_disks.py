"""The small disk of the tests of full and read-only ones: they must not be left out unseen."""

import os
from pathlib import Path

import pytest

from cohort_pipelines_tests.faults.disks import small_disk

SUDO = """#!/bin/sh
[ "$1" = --non-interactive ] && shift && exec "$@"
"""


@pytest.fixture
def _as_somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let this process take itself for an ordinary user's, and find no program at all."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("_as_somebody")
@pytest.mark.parametrize(("ci", "ends"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_a_mount_a_test_is_skipped_and_in_ci_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, ends: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with (
        pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="takes root") as ended,
        small_disk(tmp_path / "disk", 64),
    ):
        pass
    assert ended.type is ends


@pytest.mark.skipif(os.geteuid() != 0, reason="What stands for sudo here takes root.")
@pytest.mark.usefixtures("_as_somebody")
def test_ci_mounts_through_sudo_where_it_is_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin")
    (tmp_path / "sudo").write_text(SUDO, encoding="utf-8")
    (tmp_path / "sudo").chmod(0o700)

    with small_disk(tmp_path / "disk", 64) as disk:
        assert disk.place.is_mount()
        disk.fill(but=0)
        with pytest.raises(OSError, match="No space left"):
            (disk.place / "file").write_bytes(b"x")
        disk.make_read_only()
        with pytest.raises(OSError, match="Read-only"):
            (disk.place / "file").touch()
    assert not disk.place.is_mount()
