"""Starting and stopping the stand-ins: in this process, in a thread of it, or in a process of their own."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import msgspec
import uvicorn

from cohort_pipelines.devtools.standins.services import StandIns
from cohort_pipelines.devtools.standins.settings import Addresses, Settings


class _Server(uvicorn.Server):
    """uvicorn for the three services; says when it listens, and saves their states before it ends."""

    def __init__(self, standins: StandIns, listening: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                standins.app(),
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                date_header=False,  # the faults write it
                log_level="error",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )
        self.standins = standins
        self._listening = listening

    def serve_until_stopped(self) -> None:
        """Serve until a signal comes or ``should_exit`` is set."""
        with suppress(KeyboardInterrupt):
            self.run(sockets=self.standins.sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self.standins.save()  # here, since uvicorn passes a signal on once it has ended


def serve(settings: Settings) -> None:
    """Serve until interrupted; print the addresses and credentials when all three listen."""
    standins = StandIns(settings)
    _Server(standins, lambda: _print(_described(standins.addresses))).serve_until_stopped()


def serve_for_parent(settings: Settings) -> None:
    """Serve until standard input ends, as it does when the parent ends; print the addresses as a line of JSON."""
    standins = StandIns(settings)
    server = _Server(standins, lambda: _print(json.dumps(asdict(standins.addresses))))

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read, whose lock would be held at exit
        server.should_exit = True

    threading.Thread(target=watch, name="parent", daemon=True).start()
    server.serve_until_stopped()


@contextmanager
def running(settings: Settings) -> Iterator[Addresses]:
    """Run the stand-ins in a process of their own, which ends with the context or with this process."""
    command = [sys.executable, "-m", "cohort_pipelines.devtools.standins", json.dumps(asdict(settings))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603  no shell
        line = child.stdout.readline() if child.stdout else b""
        if not line:
            message = f"the stand-ins did not start (exit code {child.wait()})"
            raise RuntimeError(message)
        try:
            yield msgspec.json.decode(line, type=Addresses)
        finally:
            child.communicate()  # closes its standard input, which ends it


@dataclass(frozen=True, kw_only=True)
class InThread(Addresses):
    """Stand-ins of this process: their addresses, and their states to look into."""

    standins: StandIns


@contextmanager
def in_thread(settings: Settings) -> Iterator[InThread]:
    """Run the stand-ins in a thread of this process."""
    standins = StandIns(settings)
    listening = threading.Event()
    server = _Server(standins, listening.set)
    thread = threading.Thread(target=server.serve_until_stopped, name="stand-ins", daemon=True)
    thread.start()
    listening.wait()
    where = standins.addresses
    try:
        yield InThread(
            mixpanel_url=where.mixpanel_url,
            taplytics_url=where.taplytics_url,
            apptimize_url=where.apptimize_url,
            credentials=where.credentials,
            standins=standins,
        )
    finally:
        server.should_exit = True
        thread.join()


def _described(addresses: Addresses) -> str:
    credentials = addresses.credentials
    rows = {
        **addresses.environment(),
        "project_id": credentials.project_id,
        "cohort_id": credentials.cohort_id,
        "Taplytics segments": f"{addresses.taplytics_url}/",
        "Apptimize groups": addresses.apptimize_url.replace("/cohorts", "/groups"),
    }
    return "\n".join(f"{name:<26}{value}" for name, value in rows.items())


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  what a command has to say
