"""Telling people how a sync fares: by e-mail, in Slack, or to any webhook. Each function sends one notice, once.

Whoever calls decides what to do when it was not sent; no error carries an address, a URL or what a server answered.
"""

import logging
import math
import smtplib
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from threading import Thread
from typing import TYPE_CHECKING, Literal

import msgspec

from cohort_pipelines.core import clock, event_loop
from cohort_pipelines.core.errors import CertificatesUnreadable, DestinationInvalid, NoticeNotSent
from cohort_pipelines.core.http import NoAnswer, client, send
from cohort_pipelines.destinations import checked_url

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SECONDS = 10.0
"""How long a notice may take in total, by whatever channel."""

Security = Literal["starttls", "ssl", "none"]
PORTS: Mapping[Security, int] = {"starttls": 587, "ssl": 465, "none": 25}

_ANSWER_BYTES = 2**20
_MAIL = "e-mail"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """A change of a sync's state.

    Attributes:
        id: the same whenever this notice is sent again, and no other's.
        project: whose sync it is.
        sync: its name.
        state: held, failing, late, deferred, paused or recovered.
        previous: what it was before: one of these, or ok.
        detail: why, in sentences.
        since: since when.
    """

    id: str
    project: str
    sync: str
    state: str
    previous: str
    detail: str
    since: datetime

    @property
    def headline(self) -> str:
        """What happened, in one line."""
        return f"{self.sync} is {self.state}" if self.state != "recovered" else f"{self.sync} has recovered"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mail server, how to get in (without a username: as anybody), and who writes to whom."""

    host: str
    port: int
    security: Security
    username: str
    password: str
    sender: str
    to: tuple[str, ...]


def to_slack(url: str, notice: Notice) -> None:
    """Post ``notice`` to an incoming webhook.

    It answers 200 for what it took, 4xx or 5xx otherwise; `&`, `<` and `>` have to be written as entities (Slack's
    pages "Sending messages using incoming webhooks" and "Formatting text for app surfaces").

    Raises:
        NoticeNotSent: it did not take it.
    """
    text = f"*{_entities(notice.headline)}* ({_entities(notice.project)}, since {_utc(notice.since)})\n"
    _post("Slack", url, {"text": text + _entities(notice.detail)})


def to_webhook(url: str, notice: Notice) -> None:
    """Post ``notice`` as JSON: its attributes under their names, ``since`` in RFC 3339; any 2xx counts as taken.

    Raises:
        NoticeNotSent: the receiver did not take it.
    """
    _post("webhook", url, asdict(notice) | {"since": notice.since.astimezone(UTC)})


def to_mailbox(mailbox: Mailbox, notice: Notice) -> None:
    """Mail ``notice``; the server's certificate is verified, unless there is to be no encryption.

    It runs in a thread of its own, which can be given up: `smtplib` limits each read, and a server that answers every
    command slowly, or byte by byte, would take minutes. Where a server takes the mail for some of the addresses only,
    the log says for how many not.

    Raises:
        NoticeNotSent: the server did not take it for anybody, or no message can be made.
    """
    try:
        message = _message(mailbox, notice)
    except (ValueError, LookupError, AttributeError):  # what Python's parser of addresses raises
        raise NoticeNotSent(_MAIL, "no message can be made with its sender and addresses") from None
    taken: Future[Mapping[str, object]] = Future()
    arguments = (mailbox, message, time.monotonic() + SECONDS, taken)
    Thread(target=_mail, args=arguments, name="mail", daemon=True).start()
    try:
        refused = taken.result(SECONDS)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise NoticeNotSent(_MAIL, _of_mail(error)) from None
    if refused:
        _LOG.warning("The mail server refused %d of %d addresses of an alert.", len(refused), len(mailbox.to))


def _mail(mailbox: Mailbox, message: EmailMessage, until: float, taken: "Future[Mapping[str, object]]") -> None:
    """Mail ``message``, and say who was refused as soon as it is taken: the goodbye does not count."""
    try:
        with _opened(mailbox, until) as server:
            if mailbox.username:
                server.login(mailbox.username, mailbox.password)
            taken.set_result(server.send_message(message))
    except BaseException as error:  # noqa: BLE001  it is raised where the mail is waited for
        if not taken.done():
            taken.set_exception(error)


class _Server(smtplib.SMTP):
    """A mail server that is told nothing after ``until``, so that a mail which was given up is not delivered then."""

    until = math.inf

    def send(self, s: "ReadableBuffer | str") -> None:
        """Send ``s``: every command, and the message."""
        if time.monotonic() >= self.until:
            raise TimeoutError
        super().send(s)


class _TlsServer(_Server, smtplib.SMTP_SSL):
    """The same, with encryption from the first byte."""


def _post(channel: str, url: str, body: Mapping[str, object]) -> None:
    status = event_loop.run(_status(channel, url, msgspec.json.encode(body)))
    if not 200 <= status < 300:  # noqa: PLR2004  the class of success; a redirect is not followed
        raise NoticeNotSent(channel, f"the receiver answered HTTP {status}")


async def _status(channel: str, url: str, body: bytes) -> int:
    try:
        address = checked_url(channel, url)
        async with client(connections=1, headers={"content-type": "application/json"}) as http:
            request = http.build_request("POST", address, content=body)
            return (await send(http, request, seconds=SECONDS, max_bytes=_ANSWER_BYTES)).status_code
    except DestinationInvalid:
        raise NoticeNotSent(channel, "its URL is no plain http:// or https:// URL") from None
    except CertificatesUnreadable as unreadable:
        raise NoticeNotSent(channel, str(unreadable)) from None
    except NoAnswer as gone:
        raise NoticeNotSent(channel, f"no complete answer came ({gone.cause})") from None


def _opened(mailbox: Mailbox, until: float) -> _Server:
    if mailbox.security == "ssl":
        context = ssl.create_default_context()
        server: _Server = _TlsServer(mailbox.host, mailbox.port, timeout=SECONDS, context=context)
    else:
        server = _Server(mailbox.host, mailbox.port, timeout=SECONDS)
    server.until = until
    if mailbox.security == "starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _message(mailbox: Mailbox, notice: Notice) -> EmailMessage:
    message = EmailMessage()
    message["From"] = mailbox.sender
    message["To"] = ", ".join(mailbox.to)
    message["Subject"] = f"[{notice.project}] {notice.headline}"
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = make_msgid(domain="cohort-pipelines.invalid")  # asking for our own name can take long
    message.set_content(
        f"{notice.headline}, since {_utc(notice.since)} (before: {notice.previous}).\n\n{notice.detail}\n"
    )
    return message


def _of_mail(error: Exception) -> str:
    code = f", code {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
    return f"the mail server did not take the message ({type(error).__name__}{code})"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
