"""The four wires, each against a real receiver, in pieces so small that a few users are many requests."""

import csv
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.delivery import service
from cohort_pipelines.destinations import replacing, taplytics
from cohort_pipelines.destinations.apptimize import apptimize_http
from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.destinations.replacing import ReplacingMessages
from cohort_pipelines.destinations.taplytics import Taplytics
from cohort_pipelines.destinations.wire import ChangeWire, FileWire
from cohort_pipelines.devtools.standins.settings import Addresses
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.faults.checker import Checker

TARGET = "Beta"
CHUNK_ROWS = {"flags": 2, "messages": 1, "replace_session": 3}
HTTP_WIRES = ("flags", "messages", "replace_session")
WIRES = (*HTTP_WIRES, "file")
_TLS = ssl.create_default_context()  # which httpx would read anew for each request

STRANGERS = {f"never-sent-{number}" for number in range(5)}
"""Whom somebody put into the target by hand, and nobody of us ever sends."""

ALREADY_THERE = {"already-there"}
"""Who was put there likewise, and is in payloads as well; of all ids it is sent first."""

Row = tuple[str, str]
"""What a partner was asked for, and the id."""


@dataclass(frozen=True)
class Wired:
    """A wire to a target, and what really is at the other end of it, which may be applied later than acknowledged."""

    kind: str
    standins: Addresses
    folder: Path
    apply_delay: timedelta = timedelta(0)

    @property
    def terms(self) -> Terms:
        """What has to be declared of the target."""
        return Terms(apply_delay=self.apply_delay)

    @property
    def green(self) -> AttemptState:
        """What a delivery says that has just sent something, and all is well."""
        return AttemptState.ACCEPTED if self.apply_delay else AttemptState.DELIVERED

    def partner(self) -> ChangeWire | FileWire:
        """Return the wire as a process of its own would make it."""
        where = self.standins
        if self.kind == "file":
            return CsvFile(partner="Apptimize", folder=self.folder / "imports")
        if self.kind == "flags":
            flags = Taplytics(key=where.credentials.taplytics_key, url=where.taplytics_url, concurrency=2)
            flags.chunk_rows = CHUNK_ROWS[self.kind]
            return flags
        messages = apptimize_http(url=where.apptimize_url, token=where.credentials.apptimize_token, region="eu")
        messages.chunk_rows = CHUNK_ROWS[self.kind]
        return ReplacingMessages(messages) if self.kind == "replace_session" else messages

    @property
    def members(self) -> set[str]:
        """Who is in the target, read from the receiver itself; a file is read as whoever imports it would."""
        if self.kind == "file":
            with (self.folder / "imports" / TARGET / "current.csv").open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            assert header == ["user_id"]
            return {user for (user,) in rows}
        judge = Checker(self.folder, self.standins)
        return judge.segment(TARGET) if self.kind == "flags" else judge.group(TARGET)

    def with_strangers(self, payload: set[str]) -> set[str]:
        """Return who has to be in the target once ``payload`` is: strangers stay, unless everybody is replaced."""
        return payload if self.kind in {"replace_session", "file"} else payload | STRANGERS

    def sent(self) -> Counter[Row]:
        """Return what was asked for of each user, and how often, since it was forgotten last."""
        if self.kind == "file":
            return Counter()
        if self.kind == "flags":
            return Counter((str(posted[TARGET]), user) for user, posted in self._ask("GET", "writes"))
        return Counter((action, user) for action, _, users in self._ask("GET", "messages") for user in users)

    def forget_sent(self) -> None:
        """Let the receiver forget what it was asked for, though not what it holds."""
        if self.kind != "file":
            self._ask("DELETE", "writes" if self.kind == "flags" else "messages")

    def behave(self, **behaviour: object) -> None:
        """Change how the receiver behaves."""
        self._ask("POST", "behaviour", behaviour)

    def land(self) -> int:
        """Let what is pending take effect; return how many requests that were."""
        return int(self._ask("POST", "land", {})["landed"])

    def pending(self) -> int:
        """Return how many requests have not taken effect yet."""
        return int(self._ask("GET", "behaviour")["pending"])

    def fault(self, **fault: object) -> None:
        """Switch a fault on."""
        self._ask("POST", "faults", fault)

    def mend(self) -> None:
        """Switch all faults off, and behave well again."""
        self._ask("DELETE", "faults")
        self._ask("DELETE", "behaviour")

    def hold(self, members: Iterable[str]) -> None:
        """Let the target hold exactly these, by hand, and forget what was sent."""
        wanted = set(members)
        if self.kind != "file":
            edit = {"target": TARGET, "add": sorted(wanted), "remove": sorted(self.members - wanted)}
            self._ask("POST", "edit", edit)
            self.forget_sent()

    def meet_strangers(self) -> None:
        """Let the target be full of ids that we never sent, as one that was written by hand so far."""
        self.hold(STRANGERS | ALREADY_THERE)

    def _ask(self, method: str, what: str, body: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401  JSON
        service = self.standins.taplytics_url if self.kind == "flags" else self.standins.apptimize_url
        url = httpx.URL(service).copy_with(path=f"/standin/{what}")
        return httpx.request(method, url, json=body, verify=_TLS).raise_for_status().json()


@contextmanager
def skipping_waits(wired: Wired) -> Iterator[None]:
    """Let be over at once what a delivery in this process waits for before it sends: all that is pending has landed."""
    with ExitStack() as passed, pytest.MonkeyPatch.context() as patch:

        def skip(_seconds: float) -> None:
            wired.land()
            passed.enter_context(clock.shifted(wired.apply_delay))

        patch.setattr(service, "time", SimpleNamespace(sleep=skip))
        yield


@contextmanager
def small_pages() -> Iterator[None]:
    """Let a session's pages be as small as the other wires' chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacing, "PAGE_ROWS", CHUNK_ROWS["replace_session"])
        yield


@contextmanager
def small_chunks() -> Iterator[None]:
    """Let the chunks of a project's own wires be as small; for Taplytics its ``concurrency`` must be that small too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(taplytics, "_CHUNK_ROWS", CHUNK_ROWS["flags"])
        patch.setattr(CohortMessages, "chunk_rows", CHUNK_ROWS["messages"])
        yield
