"""How far a step has come, for the demo's progress bar; without a listener by default."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, str, int, int], None]

_listeners: list[Listener] = []


def report(sync: str, stage: str, done: int, total: int) -> None:
    """Tell that ``stage`` of ``sync`` has done ``done`` of ``total`` rows."""
    for listener in _listeners:
        listener(sync, stage, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener(sync, stage, done, total)`` for every report of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
