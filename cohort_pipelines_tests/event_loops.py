"""What must not block an event loop: the ledger, whose one writer may be waited for half a minute."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cohort_pipelines.ledger.database import Database


@contextmanager
def free_of_the_ledger() -> Iterator[list[str]]:
    """Fail each transaction that is begun in the thread of a running event loop; yield which there were."""
    blocking: list[str] = []

    def guarded(name: str) -> Any:  # noqa: ANN401  a method
        begin = getattr(Database, name)

        @contextmanager
        def transaction(database: Database) -> Iterator[Any]:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                blocking.append(name)
            with begin(database) as connection:
                yield connection

        return transaction

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "write"):
            patch.setattr(Database, name, guarded(name))
        yield blocking
