"""Servers on loopback that take alerts: one for HTTP, one for mail."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from cohort_pipelines_tests.devtools.test_dev import free_port

HOST = "127.0.0.1"


@dataclass
class HttpReceiver:
    """Keeps what it was posted; answers with ``status``."""

    url: str
    status: int = 200
    bodies: list[Any] = field(default_factory=list)
    types: list[str | None] = field(default_factory=list)

    @property
    def states(self) -> list[str]:
        return [body["state"] for body in self.bodies]


@contextmanager
def http_receiver(path: str = "/hook/s3cr3t") -> Iterator[HttpReceiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if receiver.status < 300 and self.path == path:
                receiver.bodies.append(body)
                receiver.types.append(self.headers["content-type"])
            self.send_response(receiver.status if self.path == path else 404)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b"s3cr3t words of the server")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        receiver = HttpReceiver(f"http://{HOST}:{server.server_port}{path}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@dataclass
class MailReceiver:
    """Keeps the messages it took, with how they came; refuses the addresses in ``unknown``.

    It lets ``seconds`` pass before it answers to one of the commands that are ``slow``.
    """

    port: int
    seconds: float = 0.0
    slow: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    authenticated: list[bool] = field(default_factory=list)

    async def handle_MAIL(  # noqa: N802  the library's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        await self._think("MAIL")
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        await self._think("RCPT")
        if address in self.unknown:
            return "550 no such user s3cr3t"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.messages.append(message)
        self.recipients.append(list(envelope.rcpt_tos))
        self.authenticated.append(bool(session.authenticated))
        assert server.transport is not None
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"

    async def handle_QUIT(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802
        await self._think("QUIT")
        return "221 Bye"

    async def _think(self, command: str) -> None:
        if command in self.slow:
            await asyncio.sleep(self.seconds)


@contextmanager
def mail_receiver(
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    login: tuple[str, str] | None = None,
) -> Iterator[MailReceiver]:
    """Run a mail server that knows one ``login``; with ``starttls`` it takes nothing from anybody else."""
    receiver = MailReceiver(free_port())

    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: object) -> AuthResult:
        given = (data.login.decode(), data.password.decode()) if isinstance(data, LoginPassword) else None
        return AuthResult(success=given == login, handled=False)

    controller = Controller(
        receiver,
        hostname=HOST,
        port=receiver.port,
        ssl_context=tls,
        tls_context=starttls,
        require_starttls=starttls is not None,
        authenticator=authenticate,
        auth_required=login is not None and starttls is not None,  # the library warns of it anywhere else
        auth_require_tls=starttls is not None,
    )
    controller.start()
    try:
        yield receiver
    finally:
        _wait_for_the_goodbye()
        controller.stop()


def _wait_for_the_goodbye() -> None:
    """Wait until no mail is under way any more: also not one that was taken, or given up."""
    for thread in threading.enumerate():
        if thread.name == "mail":
            thread.join(10)
            assert not thread.is_alive()
