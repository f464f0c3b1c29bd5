"""The judge of the fault tests: it knows the sealed payloads and what the partners really hold, and no record of ours.

Payloads are read from their files by pyarrow alone, partners over HTTP.
"""

import hashlib
import json
import ssl
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pyarrow.parquet as pq

from cohort_pipelines.devtools.standins.settings import Addresses

SEGMENT = "Beta Users"
GROUP = "Mixpanel: Beta Users"
_TLS = ssl.create_default_context()  # which httpx would read anew for each request


@dataclass(frozen=True)
class Checker:
    """Looks at a folder of data, and at the stand-ins that serve it."""

    data: Path
    standins: Addresses

    def payload(self, sync: str, window: str) -> set[str]:
        """Return the ids of the newest sealed payload of a window."""
        files = sorted(self.files(sync, "partner_payload", window), key=lambda file: file.stat().st_mtime_ns)
        return ids_in(files[-1])

    def excluded(self, sync: str, window: str) -> list[tuple[str, str | None, str]]:
        """Return distinct_id, partner id and reason of everybody who was left out of a window, newest version."""
        files = sorted(self.files(sync, "excluded", window), key=lambda file: file.stat().st_mtime_ns)
        table = pq.read_table(files[-1])
        return list(zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True))

    def files(self, sync: str = "*", stage: str = "*", window: str = "*") -> list[Path]:
        """Return every file that is visible in the history, marks and scratch space apart."""
        return list((self.data / "history").glob(f"sync={sync}/stage={stage}/window={window}/*"))

    def damaged(self) -> list[Path]:
        """Return the visible files that are not what their name says."""
        return [file for file in self.files() if file.stem != hashlib.sha256(file.read_bytes()).hexdigest()]

    def segment(self, field: str = SEGMENT) -> set[str]:
        """Return who is in a segment at Taplytics."""
        return _told(f"{self.standins.taplytics_url}/standin/state?field={quote(field)}")

    def group(self, name: str = GROUP) -> set[str]:
        """Return who is in a group at Apptimize."""
        return _told(f"{self._apptimize}/standin/state?group={quote(name)}")

    def asked(self) -> Counter[str]:
        """Return how many requests the partners have answered or met with silence, by path."""
        return _requests(self.standins.taplytics_url) + _requests(self._apptimize)

    def queried(self) -> Counter[str]:
        """Return the same of Mixpanel."""
        return _requests(self.standins.mixpanel_url)

    @property
    def _apptimize(self) -> str:
        return str(httpx.URL(self.standins.apptimize_url).copy_with(path="/")).rstrip("/")


def ids_in(payload: Path) -> set[str]:
    """Return the ids of a payload file."""
    return set(pq.read_table(payload, columns=["partner_user_id"]).column(0).to_pylist())


def _told(url: str) -> set[str]:
    return {json.loads(line) for line in httpx.get(url, verify=_TLS).raise_for_status().text.split("\n") if line}


def _requests(url: str) -> Counter[str]:
    rows = httpx.get(f"{url}/standin/requests", verify=_TLS).raise_for_status().json()["requests"]
    asked: Counter[str] = Counter()
    for row in rows:
        asked[row["path"]] += row["count"]
    return asked
