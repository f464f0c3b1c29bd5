"""A process that can die at each request and at each durable write of a delivery, without a process being started.

The ledger's commits are points of :class:`MortalLedger`. Requests, and every file that gets its name (the history's,
its marks of the ledger, a published file, its manifest, the pointer to it), are points here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core.http import AsyncClient, Response, send
from cohort_pipelines.destinations import exchange
from cohort_pipelines_tests.delivery.world import Fate, MortalLedger, World


@contextmanager
def mortal(world: World, fate: Fate) -> Iterator[None]:
    """Let ``world`` die at a point of ``fate``: before or after a commit, a file, a request."""
    replace, symlink_to = Path.replace, Path.symlink_to

    async def mortal_send(http: AsyncClient, request: httpx.Request, *, seconds: float, max_bytes: int) -> Response:
        fate.point()
        response = await send(http, request, seconds=seconds, max_bytes=max_bytes)
        fate.answered()
        return response

    def mortal_replace(path: Path, name: Path) -> Path:
        fate.point()
        named = replace(path, name)
        fate.point()
        return named

    def mortal_symlink_to(path: Path, name: str) -> None:
        fate.point()
        symlink_to(path, name)
        fate.point()

    world.ledger = MortalLedger(world.ledger, fate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "send", mortal_send)
        patch.setattr(Path, "replace", mortal_replace)
        patch.setattr(Path, "symlink_to", mortal_symlink_to)
        yield


def dies(world: World, ids: set[str], at: int | Fate, **options: object) -> bool:
    """Read and deliver ``ids``, and die at that point; return False where there are not so many points."""
    fate = Fate(dies_at=at) if isinstance(at, int) else at
    try:
        with mortal(world, fate):
            world.overwrite(ids, **options)
    except BaseException:
        if not fate.dead:
            raise
    return fate.dead
