"""Windows: the slots of time that scheduled overwrites belong to, and the names of one-time exports.

A window is named by its start in UTC, `2026-11-22T1215Z`: no colon, so that the name is safe in paths and URLs.
Mixpanel answers for now and never for the past, so a snapshot can only be taken while its window is open.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from cohort_pipelines.core import clock
from cohort_pipelines.core.disk import encode_path_name
from cohort_pipelines.core.errors import ExportNameInvalid, WindowClosed, WindowNotOpenYet

KEY_FORMAT = "%Y-%m-%dT%H%MZ"
MAX_EXPORT_NAME = 64
_MAX_PATH_NAME = 200  # bytes; file systems stop at 255, and the folder is called "window=<name>"


class Cadence(Enum):
    """How often a partner's scheduled sync overwrites its target; the value is the period."""

    TWO_HOURS = timedelta(hours=2)
    QUARTER_HOUR = timedelta(minutes=15)

    @property
    def cron(self) -> str:
        """The cadence as a cron expression in UTC."""
        return "0 */2 * * *" if self is Cadence.TWO_HOURS else "*/15 * * * *"

    @property
    def per_hour(self) -> float:
        """How many windows open in an hour, on average: so many snapshots, and queries of Mixpanel, a sync takes."""
        return timedelta(hours=1) / self.value

    def window_at(self, moment: datetime) -> "Window":
        """Return the window that is open at ``moment``."""
        midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        opens = midnight + (moment - midnight) // self.value * self.value
        return Window(key=opens.strftime(KEY_FORMAT), opens=opens, closes=opens + self.value)

    def window_named(self, key: str) -> "Window":
        """Return the window called ``key``.

        Raises:
            ValueError: ``key`` is not the start of one of this cadence's windows.
        """
        opens = datetime.strptime(key, KEY_FORMAT).replace(tzinfo=UTC)
        window = self.window_at(opens)
        if window.key != key:
            message = f"{key} is not the start of a window of {self.cron}"
            raise ValueError(message)
        return window


@dataclass(frozen=True, slots=True)
class Window:
    """A slot of time with a name; a one-time export has a name and no end."""

    key: str
    opens: datetime | None = None
    closes: datetime | None = None

    def require_open(self) -> None:
        """Refuse unless a snapshot taken now would belong to this window.

        Raises:
            WindowClosed: the window is over; what the cohort was then can no longer be read.
            WindowNotOpenYet: the window lies in the future.
        """
        moment = clock.now()
        if self.closes is not None and moment >= self.closes:
            raise WindowClosed(self.key, self.closes)
        if self.opens is not None and moment < self.opens:
            raise WindowNotOpenYet(self.key, self.opens)

    @property
    def path_name(self) -> str:
        """The window's name as one safe part of a path; percent-encoded, as Hive readers expect."""
        return encode_path_name(self.key)


def one_time_window(name: str) -> Window:
    """Return the window of a one-time export, named by the person who asked for it.

    Raises:
        ExportNameInvalid: the name is empty, longer than 64 characters, or too long once encoded into a path.
    """
    if not name.strip() or len(name) > MAX_EXPORT_NAME or len(encode_path_name(name)) > _MAX_PATH_NAME:
        raise ExportNameInvalid(MAX_EXPORT_NAME)
    return Window(key=name)
