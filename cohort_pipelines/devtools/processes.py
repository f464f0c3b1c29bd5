"""Child processes that live and die together, each with all that it started itself.

A child ends when its standard input does: that also happens when its parent is killed. A command that knows nothing of
this runs under a guard, this module as a process, which then stops the command's whole session.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cohort_pipelines.core.disk import Held, make_private, only_holder
from cohort_pipelines.core.errors import ProjectFolderInvalid, ServiceEnded

HOST = "127.0.0.1"

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0

Child = subprocess.Popen[bytes]


def start_guarded(command: Sequence[str], *, folder: Path, environment: Mapping[str, str], keep_open: int) -> Child:
    """Start ``command`` in ``folder`` under a guard, which holds ``keep_open`` until all of it is gone."""
    return subprocess.Popen(  # noqa: S603  commands of ours
        [sys.executable, "-m", "cohort_pipelines.devtools.processes", *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[keep_open],
    )


def watch(children: Mapping[str, Child], *, until: Callable[[], bool]) -> None:
    """Wait until ``until`` is true.

    Raises:
        ServiceEnded: a child ended before that.
    """
    while not until():
        for name, child in children.items():
            if child.poll() is not None:
                raise ServiceEnded(name, child.returncode)
        time.sleep(_POLL_SECONDS)


def stop_all(children: Mapping[str, Child]) -> None:
    """Stop the children by the end of their standard input, the last one first; kill what does not listen."""
    for child in reversed(list(children.values())):
        try:
            child.communicate(timeout=_GRACE_SECONDS + 5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield whether a signal to stop has come; with handlers of ours the children start with default ones.

    A shell job in the background ignores SIGINT, and what ignores it passes that on: `dagster dev`, which stops its own
    children by SIGINT, would never end.
    """
    told: list[int] = []
    handlers = {
        number: signal.signal(number, lambda came, _frame: told.append(came))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def only_one(project: Path) -> Iterator[int]:
    """Hold the project's lock, and yield its descriptor: the lock lasts while any process that inherits it lives.

    Raises:
        ProjectFolderInvalid: another process holds it, or it cannot be written.
    """
    path = project / "data" / "dagster" / "dev.lock"
    with ExitStack() as held:
        try:
            make_private(path.parent)
            lock = held.enter_context(only_holder(path))
        except OSError as error:
            problem = f"{path} cannot be written ({error.strerror})"
            raise ProjectFolderInvalid(project, problem, "Check free space and permissions.") from None
        except Held as error:
            where = f" on another host: {error}" if error.host else ""
            raise ProjectFolderInvalid(
                project, f"is being served already{where}", "Stop the other one first."
            ) from None
        yield lock


def answers(port: int) -> bool:
    """Tell whether something on this machine listens at ``port``."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def guard(command: Sequence[str]) -> int:
    """Run ``command`` until it or the standard input ends; stop all of its session; return its exit code, shell style.

    Asked to stop, it is first interrupted, as by a Ctrl-C; what still lives after ten seconds is killed.
    """
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603  commands of ours
    while child.poll() is None and not select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
        pass
    asked = child.returncode is None
    _stop_session(child)
    if asked:
        return 0
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _stop_session(leader: Child) -> None:
    _signal_group(leader, signal.SIGINT)
    give_up = time.monotonic() + _GRACE_SECONDS
    while _lives(leader) and time.monotonic() < give_up:
        time.sleep(_POLL_SECONDS)
    _signal_group(leader, signal.SIGKILL)
    leader.wait()


def _lives(leader: Child) -> bool:
    leader.poll()  # reaps it: unreaped it would count as alive in its group
    return _signal_group(leader, 0)


def _signal_group(leader: Child, number: int) -> bool:
    try:
        os.killpg(leader.pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
