import logging
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from cohort_pipelines.core.errors import NoticeNotSent
from cohort_pipelines.reporting import notices
from cohort_pipelines.reporting.notices import Mailbox, Notice, Security
from cohort_pipelines_tests.receivers import HOST, HttpReceiver, http_receiver, mail_receiver

NOTICE = Notice(
    id="ledger-7",
    project="our_syncs",
    sync="beta_users",
    state="held",
    previous="ok",
    detail="Held by the gate max_shrink: 3 < 10 & falling. Nothing was sent.",
    since=datetime(2026, 11, 22, 12, 30, 5, tzinfo=UTC),
)
SECRET = "s3cr3t"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver(f"/services/{SECRET}") as receiver:
        yield receiver


def refusal(send: Callable[[], None]) -> str:
    """Return why nothing was sent, once it is sure that no trace of it names a secret."""
    with pytest.raises(NoticeNotSent) as refused:
        send()
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    return str(refused.value)


def test_slack_gets_a_text_in_which_nothing_is_markup_by_accident(receiver: HttpReceiver) -> None:
    notices.to_slack(receiver.url, NOTICE)

    assert receiver.bodies == [
        {
            "text": "*beta_users is held* (our_syncs, since 2026-11-22 12:30 UTC)\n"
            "Held by the gate max_shrink: 3 &lt; 10 &amp; falling. Nothing was sent."
        }
    ]
    assert receiver.types == ["application/json"]


def test_a_webhook_gets_every_attribute(receiver: HttpReceiver) -> None:
    notices.to_webhook(receiver.url, NOTICE)

    assert receiver.bodies == [
        {
            "id": "ledger-7",
            "project": "our_syncs",
            "sync": "beta_users",
            "state": "held",
            "previous": "ok",
            "detail": NOTICE.detail,
            "since": "2026-11-22T12:30:05Z",
        }
    ]


@pytest.mark.parametrize("status", [302, 400, 403, 404, 410, 429, 500])
@pytest.mark.parametrize("send", [notices.to_slack, notices.to_webhook])
def test_anything_but_success_is_not_sent(
    receiver: HttpReceiver, send: Callable[[str, Notice], None], status: int
) -> None:
    receiver.status = status

    assert f"HTTP {status}" in refusal(lambda: send(receiver.url, NOTICE))
    assert receiver.bodies == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"ftp://host/{SECRET}",
        f"http://[::1/{SECRET}",
        f"https://user:{SECRET}@host/",
        f"http://h/{SECRET}\n",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url: str) -> None:
    assert "URL" in refusal(lambda: notices.to_webhook(url, NOTICE))


def test_a_receiver_that_is_down_is_named_by_its_channel_only(receiver: HttpReceiver) -> None:
    nobody = receiver.url.replace(receiver.url.split(":")[2].split("/")[0], "9")

    assert "Slack: no complete answer" in refusal(lambda: notices.to_slack(nobody, NOTICE))


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """Return an authority that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def server_side(authority: trustme.CA, host: str = HOST) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


def mailbox(port: int, security: Security, *, password: str = SECRET, to: tuple[str, ...] = ("ann@ours",)) -> Mailbox:
    username = "" if security == "none" else "robot"
    return Mailbox(HOST, port, security, username, password, "syncs@ours", to)


def test_mail_goes_out_in_the_clear_where_that_was_chosen() -> None:
    with mail_receiver() as receiver:
        notices.to_mailbox(mailbox(receiver.port, "none", to=("ann@ours", "bob@ours")), NOTICE)

    [message] = receiver.messages
    assert (message["From"], message["To"]) == ("syncs@ours", "ann@ours, bob@ours")
    assert message["Subject"] == "[our_syncs] beta_users is held"
    assert message["Date"].datetime.tzinfo is not None
    text = message.get_content()
    assert "since 2026-11-22 12:30 UTC (before: ok)" in text
    assert NOTICE.detail in text
    assert receiver.recipients == [["ann@ours", "bob@ours"]]


def test_starttls_comes_before_the_password(authority: trustme.CA) -> None:
    with mail_receiver(starttls=server_side(authority), login=("robot", SECRET)) as receiver:
        notices.to_mailbox(mailbox(receiver.port, "starttls"), NOTICE)

    assert (len(receiver.messages), receiver.encrypted, receiver.authenticated) == (1, [True], [True])


def test_tls_from_the_first_byte(authority: trustme.CA) -> None:
    with mail_receiver(tls=server_side(authority), login=("robot", SECRET)) as receiver:
        notices.to_mailbox(mailbox(receiver.port, "ssl"), NOTICE)

    assert (len(receiver.messages), receiver.encrypted, receiver.authenticated) == (1, [True], [True])


def test_a_wrong_password_is_refused_with_its_code(authority: trustme.CA) -> None:
    with mail_receiver(starttls=server_side(authority), login=("robot", "another")) as receiver:
        said = refusal(lambda: notices.to_mailbox(mailbox(receiver.port, "starttls"), NOTICE))

    assert "SMTPAuthenticationError, code 535" in said
    assert receiver.messages == []


@pytest.mark.usefixtures("authority")
@pytest.mark.parametrize("security", ["starttls", "ssl"])
def test_a_certificate_that_nobody_vouches_for_gets_no_password(security: Security) -> None:
    context = server_side(trustme.CA())
    served = {"starttls": context} if security == "starttls" else {"tls": context}
    with mail_receiver(login=("robot", SECRET), **served) as receiver:
        said = refusal(lambda: notices.to_mailbox(mailbox(receiver.port, security), NOTICE))

    assert "SSLCertVerificationError" in said
    assert receiver.messages == []


def test_a_server_without_starttls_gets_no_password() -> None:
    with mail_receiver() as receiver:
        said = refusal(lambda: notices.to_mailbox(mailbox(receiver.port, "starttls"), NOTICE))

    assert "SMTPNotSupportedError" in said


def test_an_address_that_is_refused_does_not_keep_the_others_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    with mail_receiver() as receiver, caplog.at_level(logging.WARNING):
        receiver.unknown = frozenset({f"{SECRET}@ours"})
        notices.to_mailbox(mailbox(receiver.port, "none", to=("ann@ours", f"{SECRET}@ours")), NOTICE)

    assert receiver.recipients == [["ann@ours"]]
    assert "refused 1 of 2 addresses" in caplog.text
    assert SECRET not in caplog.text


def test_mail_that_is_refused_for_everybody_is_not_sent() -> None:
    with mail_receiver() as receiver:
        receiver.unknown = frozenset({"ann@ours"})
        assert "SMTPRecipientsRefused" in refusal(lambda: notices.to_mailbox(mailbox(receiver.port, "none"), NOTICE))


def test_a_mail_server_that_is_down() -> None:
    with mail_receiver() as receiver:
        port = receiver.port
    assert "ConnectionRefusedError" in refusal(lambda: notices.to_mailbox(mailbox(port, "none"), NOTICE))


def test_a_mail_server_that_answers_each_command_slowly_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "SECONDS", 1.0)
    with mail_receiver() as receiver:
        receiver.slow, receiver.seconds = frozenset({"MAIL", "RCPT"}), 0.5
        to_four = mailbox(receiver.port, "none", to=("ann@ours", "bob@ours", "cid@ours", "dan@ours"))
        began = time.monotonic()
        assert "TimeoutError" in refusal(lambda: notices.to_mailbox(to_four, NOTICE))
        assert time.monotonic() - began < 2  # all of it takes longer

    assert receiver.messages == []  # nor later, so that it is not told twice


@pytest.mark.slow
def test_a_mail_that_was_taken_is_not_held_up_by_the_goodbye() -> None:
    with mail_receiver() as receiver:
        receiver.slow, receiver.seconds = frozenset({"QUIT"}), 1.5
        began = time.monotonic()
        notices.to_mailbox(mailbox(receiver.port, "none"), NOTICE)
        assert time.monotonic() - began < 1.5

    assert len(receiver.messages) == 1


def test_a_sync_that_recovered_is_not_said_to_be_so() -> None:
    recovered = Notice("1", "p", "beta_users", "recovered", "late", "", NOTICE.since)
    assert recovered.headline == "beta_users has recovered"


@pytest.mark.parametrize("address", ["a@[", "<", "ann@ours\nbcc: everybody@theirs"])
def test_an_address_that_no_message_can_have_is_a_sentence_and_nothing_is_sent(address: str) -> None:
    with mail_receiver() as server:
        to_nobody = mailbox(server.port, "none", to=(address,))
        assert "no message can be made" in refusal(lambda: notices.to_mailbox(to_nobody, NOTICE))
    assert server.messages == []
