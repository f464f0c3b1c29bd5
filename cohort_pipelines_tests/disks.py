"""Disks that refuse, for tests."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_temporary_folder() -> Iterator[None]:
    """Let this process have no folder for temporary files that can be written, as under a read-only root."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "TEMP", "TMP"):
            patch.delenv(name, raising=False)
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(tempfile, "_candidate_tempdir_list", list)
        yield
