"""A history laid over another one: it reads from both and writes only to its own root.

So what a delivery would do is worked out by the code that does it, and nothing of the record changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cohort_pipelines.core.errors import HistoryFileMissing
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history.store import History


class Overlay(History):
    """Files and scratch space under ``root``; what is not there is read from ``below``, which is never written to."""

    def __init__(self, root: Path, below: History) -> None:
        super().__init__(root)
        self.below = below

    def stored(self, sync: str, stage: Stage, window: str, checksum: str) -> StoredFile:
        """Return the sealed file of that checksum, from whichever history has it.

        Raises:
            HistoryFileMissing: neither has it.
            HistoryFileDamaged: it is not a Parquet file any more.
            HistoryNotReadable: the disk or the object store refused.
        """
        try:
            return super().stored(sync, stage, window, checksum)
        except HistoryFileMissing:
            return self.below.stored(sync, stage, window, checksum)

    @contextmanager
    def local_file(self, stored: StoredFile) -> Iterator[Path]:
        """Yield a verified local path of a sealed file, from whichever history has it.

        Raises:
            HistoryFileMissing: neither has it.
            HistoryFileDamaged: its bytes are not those that were sealed.
            HistoryNotReadable: the disk or the object store refused.
        """
        mine = (Path(self.root) / stored.path).is_file()
        with super().local_file(stored) if mine else self.below.local_file(stored) as path:
            yield path


@contextmanager
def laid_over(below: History) -> Iterator[Overlay]:
    """Yield an overlay whose own files lie in the scratch space of ``below``, and go away with it.

    Raises:
        HistoryNotWritable: no scratch space can be made.
    """
    with below.scratch() as folder:
        yield Overlay(folder, below)
