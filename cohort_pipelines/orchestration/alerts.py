"""Alerts: a sensor that tells people when a sync begins to be in trouble, and when that is over.

It asks the ledger alone, so it also sees that no run was ever started. It launches nothing. What a channel did not take
is kept and tried again at the next tick; the tick is then red, and the log names the channel, never its address.

A ledger that does not fit its history, or whose history cannot be read, is not asked and not written to: every sync is
failing, since none can deliver. The cursor keeps who was told; a tick that changes nothing in that is red until the
ledger is known to fit again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, time
from functools import partial
from typing import Annotated, ClassVar

import dagster as dg
from pydantic import Field

from cohort_pipelines.core import clock, environment
from cohort_pipelines.core.errors import (
    AlertsUntold,
    HistoryNotReadable,
    LedgerUnpaired,
    NoticeNotSent,
    VariableUnusable,
)
from cohort_pipelines.ledger import Ledger
from cohort_pipelines.orchestration.checks import FRESHNESS
from cohort_pipelines.orchestration.connections import unusable
from cohort_pipelines.orchestration.declared import NUMBER, Declared, Reference, Secret, Text
from cohort_pipelines.orchestration.invalid import AlertsWithoutChannel, SecretInFile, SettingInvalid
from cohort_pipelines.orchestration.rules import Siblings, siblings_in
from cohort_pipelines.orchestration.scaffolders import AlertsScaffolder
from cohort_pipelines.orchestration.sync import CohortSync
from cohort_pipelines.orchestration.unpaired import Unpaired, remembered
from cohort_pipelines.reporting import Mailbox, Notice, Security, Watched, judge, next_untold, note_changes, notices

EVERY_SECONDS = 60
TICK_SECONDS = 55.0
"""How long all channels together may take: Dagster gives a tick a minute. What is left is told at the next one."""

Send = Callable[[Notice], None]
Untold = Callable[[str], AbstractContextManager[Notice | None]]
"""Yields the oldest notice that a channel has not been sent, which then counts as sent."""


class Email(dg.Resolvable, dg.Model):
    """A mail server and who is written to; see :class:`cohort_pipelines.reporting.notices.Mailbox`."""

    host: Reference
    port: Annotated[int, Field(ge=1, le=65535), NUMBER] | None = None
    security: Security = "starttls"
    username: Reference = ""
    password: Secret = ""
    sender: Annotated[Text, Field(min_length=3)]
    to: Annotated[tuple[Text, ...], Field(min_length=1)]

    def mailbox(self) -> Mailbox:
        """Return the mailbox with its credentials looked up.

        Raises:
            VariableUnusable: the environment lacks one of them, or its value cannot be used.
        """
        return Mailbox(
            host=environment.resolve(self.host, wanted_for="the mail server's host"),
            port=self.port or notices.PORTS[self.security],
            security=self.security,
            username=environment.resolve(self.username, wanted_for="the mail server's username"),
            password=environment.resolve(self.password, wanted_for="the mail server's password"),
            sender=self.sender,
            to=self.to,
        )


@dg.scaffold_with(AlertsScaffolder)
class Alerts(Declared, dg.Model):
    """Who is told how the syncs fare: through one channel or several, of all syncs or some."""

    role: ClassVar[str] = "alerts"

    slack: Secret = ""
    webhook: Reference = ""
    email: Email | None = None
    syncs: tuple[Text, ...] = ()

    def require_usable(self) -> None:
        """Refuse secrets that stand in the file, a URL that is none, and a declaration that could alert no channel.

        Raises:
            SecretInFile: a secret is not a reference to the environment.
            SettingInvalid: a URL is none.
            AlertsWithoutChannel: there is no channel.
        """
        password = self.email.password if self.email else ""
        for field, text in (("slack", self.slack), ("email.password", password)):
            if text and not environment.is_reference(text):
                raise SecretInFile(self.name, field, self.file)
        if not self.channels:
            raise AlertsWithoutChannel(self.name, self.file)
        self._require_url("webhook", self.webhook)

    def require_addresses(self) -> None:
        """Look up what every channel needs, and send nothing.

        Raises:
            MissingVariable: the environment lacks a variable.
            SettingInvalid: a URL that the environment names is none.
        """
        for field in ("slack", "webhook"):
            self._require_url(field, environment.resolve(getattr(self, field), wanted_for=f"the alerts' {field}"))
        if self.email is not None:
            self.email.mailbox()

    def _require_url(self, field: str, url: str) -> None:
        if problem := unusable("url", url):
            raise SettingInvalid(self.name, field, problem, self.file)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the sensor, unless a sync is named that nothing declares."""
        siblings = siblings_in(context.component_tree)
        if wrong := siblings.unloadable_for(self):
            return wrong.build_defs(context)
        project = context.defs_module_name.partition(".")[0]
        return dg.Definitions(sensors=[_sensor(self.name, project, self.channels, self._watched(siblings))])

    def _watched(self, siblings: Siblings) -> list[Watched]:
        """Return the syncs to watch, and the declarations that cannot be loaded: all of them, or those named."""
        wrong = [each for each in siblings.unloadable if each.may_be_a_sync or not self.syncs]
        problems = {siblings.called(each): each.problem for each in wrong}
        names = self.syncs or sorted({*siblings.syncs, *problems})
        return [
            Watched(name, unloadable=problems[name]) if name in problems else _watched(siblings.syncs[name])
            for name in names
        ]

    @property
    def channels(self) -> dict[str, Send]:
        """How to send a notice, by the channel's name: it keeps its name when its address changes."""
        ways: Mapping[str, tuple[object, Send]] = {
            "slack": (self.slack, self._to_slack),
            "webhook": (self.webhook, self._to_webhook),
            "email": (self.email, self._to_mailbox),
        }
        return {f"{self.name}/{kind}": send for kind, (declared, send) in ways.items() if declared}

    def _to_slack(self, notice: Notice) -> None:
        notices.to_slack(environment.resolve(self.slack, wanted_for="the alerts' slack"), notice)

    def _to_webhook(self, notice: Notice) -> None:
        notices.to_webhook(environment.resolve(self.webhook, wanted_for="the alerts' webhook"), notice)

    def _to_mailbox(self, notice: Notice) -> None:
        if self.email is not None:
            notices.to_mailbox(self.email.mailbox(), notice)


def _watched(sync: CohortSync) -> Watched:
    begins = datetime.combine(sync.since, time(), UTC) if sync.since else None
    return Watched(sync.name, FRESHNESS.get(sync.type), begins)


def _sensor(name: str, project: str, channels: Mapping[str, Send], watched: Iterable[Watched]) -> dg.SensorDefinition:
    syncs = tuple(watched)

    @dg.sensor(
        name=name,
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"records"},
        description=(
            f"Tells {', '.join(channels)} once when one of these is held, failing, late or deferred, and once when it "
            f"has recovered: {', '.join(sync.sync for sync in syncs) or 'no sync is declared'}. It launches nothing."
        ),
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        before = remembered(context.cursor)
        try:
            ledger: Ledger = context.resources.records.ledger()
        except (LedgerUnpaired, HistoryNotReadable) as error:
            known = before or Unpaired(clock.now())
            untold = partial(known.next_untold, syncs=[each.sync for each in syncs], project=project, detail=str(error))
            told, problems = _tell(context, channels, untold)
            if known.cursor() == context.cursor:
                raise
            context.update_cursor(known.cursor())  # a red tick would forget it
            return dg.SkipReason("; ".join([*told, *problems]) or str(error))
        if before:
            before.hand_over(ledger)
            context.update_cursor("")
        judged = {sync.sync: judge(ledger, sync) for sync in syncs}
        for channel in channels:
            note_changes(ledger, channel, judged)
        told, problems = _tell(context, channels, partial(_next_notice, ledger, project))
        if problems and not before:
            raise AlertsUntold(problems)
        return dg.SkipReason("; ".join([*told, *problems]) or "Nothing to tell.")

    return alerts


def _tell(
    context: dg.SensorEvaluationContext, channels: Mapping[str, Send], untold: Untold
) -> tuple[list[str], list[str]]:
    """Tell each channel what it has not been told, oldest first; return what was told, and why something was not."""
    share = TICK_SECONDS / len(channels) - notices.SECONDS  # the last may take that long
    told: list[str] = []
    problems: list[str] = []
    for channel, send in channels.items():
        until = clock.monotonic() + share
        try:
            while clock.monotonic() < until:
                with untold(channel) as notice:
                    if notice is None:
                        break
                    send(notice)
                told.append(f"{channel}: {notice.headline}")
                context.log.info(told[-1])
        except (NoticeNotSent, VariableUnusable) as error:
            problems.append(f"{channel}: {error}")
            context.log.warning(problems[-1])
    return told, problems


@contextmanager
def _next_notice(ledger: Ledger, project: str, channel: str) -> Iterator[Notice | None]:
    """Yield the oldest change that ``channel`` has not been told of, as :func:`next_untold` does."""
    with next_untold(ledger, channel) as alert:
        if alert is None:
            yield None
            return
        yield Notice(
            id=f"{ledger.ledger_id}-{alert.number}",
            project=project,
            sync=alert.sync,
            state=alert.state,
            previous=alert.previous,
            detail=alert.detail,
            since=alert.since,
        )
