"""Names of processes by which a ledger or a run says who works, and by which others see that it was killed.

A name holds the host, its PID namespace, since containers may share a host's name, and when the process was started: a
number that has come to another process is told apart.
"""

import os
import socket
from pathlib import Path

_ENDED = frozenset("ZX")  # states of a process that was killed and is not reaped yet (proc(5))


def name_of(process: int | None = None) -> str:
    """Return the name of ``process`` on this host, or of this very one."""
    process = process or os.getpid()
    return f"{_host()}:{process}:{_started(process)}"


def is_gone(name: str) -> bool:
    """Say whether the process called ``name`` was one of this host and is not there any more."""
    if name.rsplit(":", 2)[0] != _host():
        return False
    _, process, started = name.rsplit(":", 2)
    return not (_started(int(process)) == started if started else _exists(int(process)))


def _host() -> str:
    """Return what the processes have in common among which numbers are told apart."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(process: int) -> str:
    """Return when a process was started, in the kernel's own ticks since it booted; empty where it does not tell.

    A process that has ended has none.
    """
    try:
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = told.rpartition(")")[2].split()  # those behind the name, which may hold anything (proc(5))
    return "" if fields[0] in _ENDED else fields[19]


def _exists(process: int) -> bool:
    """Say whether there is such a process of this user, where the kernel does not tell when it was started."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
