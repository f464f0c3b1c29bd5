import re
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent

import dagster as dg
import pytest
from fsspec.implementations.local import LocalFileSystem

from cohort_pipelines.core import clock, settings
from cohort_pipelines.core.errors import AlertsUntold, HistoryNotReadable, LedgerUnpaired
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.orchestration import alerts, project_definitions
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines.reporting import notices
from cohort_pipelines.reporting.notices import Notice
from cohort_pipelines_tests.faults.disks import denied
from cohort_pipelines_tests.orchestration.test_declarations import SOUND, problems
from cohort_pipelines_tests.orchestration.test_scaffolders import scaffold
from cohort_pipelines_tests.receivers import HttpReceiver, MailReceiver, http_receiver, mail_receiver

pytestmark = pytest.mark.slow

NOON = datetime(2026, 11, 10, 12, 5, tzinfo=UTC)
SECRET = "s3cr3t"
ALERTS = """
    type: cohort_pipelines.orchestration.Alerts
    attributes:
"""
WEBHOOK = """
      webhook: "{{ env.HOOK_URL }}"
"""
SLACK = """
      slack: "{{ env.SLACK_URL }}"
"""
EMAIL = """
      email: {host: 127.0.0.1, port: PORT, security: none, sender: syncs@ours, to: [ann@ours, bob@ours]}
"""

Declare = Callable[..., dg.Definitions]


@pytest.fixture
def declare(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Return what loads two syncs, and alerts by the name of their folder; data lie in the test's folder."""
    monkeypatch.setenv("COHORT_PIPELINES_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("COHORT_PIPELINES_LEDGER", raising=False)

    def declare(**alerts: str) -> dg.Definitions:
        package = tmp_path / f"alerted_{zlib.crc32(request.node.name.encode())}"  # Python imports each name once
        documents = {**SOUND, **{name: dedent(ALERTS) + text for name, text in alerts.items()}}
        for folder, text in documents.items():
            (package / "defs" / folder).mkdir(parents=True)
            (package / "defs" / folder / "defs.yaml").write_text(dedent(text), encoding="utf-8")
        (package / "__init__.py").touch()
        (package / "defs" / "__init__.py").touch()
        return project_definitions(package)

    return declare


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    with http_receiver(f"/{SECRET}") as receiver:
        monkeypatch.setenv("HOOK_URL", receiver.url)
        yield receiver


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    with http_receiver(f"/services/{SECRET}") as receiver:
        monkeypatch.setenv("SLACK_URL", receiver.url)
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


def tick(definitions: dg.Definitions, at: datetime, name: str = "on_call") -> str:
    """Evaluate the sensor with the clock set to ``at``, as the daemon does; return what it says of itself."""
    repository = definitions.get_repository_def()
    with (
        clock.shifted(at - clock.now()),
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance, repository_def=repository, resources={"records": Records()}
        ) as context,
    ):
        data = repository.get_sensor_def(name).evaluate_tick(context)
    assert not data.run_requests
    return data.skip_message or ""


def tick_with(definitions: dg.Definitions, at: datetime, cursor: str | None) -> tuple[str, str | None]:
    """Evaluate the sensor with what an earlier tick left in its cursor; return what it says, and the new cursor."""
    repository = definitions.get_repository_def()
    with (
        clock.shifted(at - clock.now()),
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance, repository_def=repository, resources={"records": Records()}, cursor=cursor
        ) as context,
    ):
        data = repository.get_sensor_def("on_call").evaluate_tick(context)
    assert not data.run_requests
    return data.skip_message or "", data.cursor


def ledger() -> Ledger:
    return Ledger(settings.ledger_url())


def note(sync: str, state: str, reason: str, at: datetime = NOON) -> None:
    with clock.shifted(at - clock.now()):
        ledger().note_window(sync, f"{at:%Y-%m-%dT%H00Z}", state, reason)  # type: ignore[arg-type]


def said(receiver: HttpReceiver) -> list[tuple[str, str]]:
    return [(body["sync"], body["state"]) for body in receiver.bodies]


def test_a_sync_that_no_run_was_ever_started_for_is_late_and_told_of_once(declare: Declare, hook: HttpReceiver) -> None:
    definitions = declare(on_call=WEBHOOK)

    assert tick(definitions, NOON) == "Nothing to tell."  # the ledger is made by this tick
    assert tick(definitions, NOON + timedelta(minutes=59)) == "Nothing to tell."
    assert tick(definitions, NOON + timedelta(minutes=61)) == "on_call/webhook: second is late"
    assert [tick(definitions, NOON + timedelta(hours=hours)) for hours in (2, 12)] == ["Nothing to tell."] * 2
    assert tick(definitions, NOON + timedelta(hours=25)) == "on_call/webhook: first is late"

    assert said(hook) == [("second", "late"), ("first", "late")]
    assert hook.bodies[0]["project"].startswith("alerted_")
    assert hook.bodies[0]["since"].startswith("2026-11-10T13:05:0")
    assert (ledger().windows("first"), ledger().windows("second")) == ([], [])


def test_a_sync_whose_first_window_lies_ahead_is_not_late(declare: Declare, hook: HttpReceiver) -> None:
    definitions = declare(on_call=WEBHOOK)
    before = datetime(2026, 10, 1, tzinfo=UTC)  # the syncs begin in November
    for days in range(20):
        tick(definitions, before + timedelta(days=days))

    assert hook.bodies == []


def test_every_channel_of_every_alerts_hears_of_what_it_watches(
    declare: Declare, hook: HttpReceiver, slack: HttpReceiver, mail: MailReceiver
) -> None:
    everything = SLACK + EMAIL.replace("PORT", str(mail.port))
    definitions = declare(on_call=everything, growth=WEBHOOK + "      syncs: [second]")
    for sync in ("first", "second"):
        note(sync, "held", "Held by the gate min_users: 0 users.")
    told = {name: tick(definitions, NOON, name) for name in ("on_call", "growth")}

    assert told["growth"] == "growth/webhook: second is held"
    assert said(hook) == [("second", "held")]
    assert [body["text"].splitlines()[0].split("*")[1] for body in slack.bodies] == ["first is held", "second is held"]
    assert [message["Subject"].partition("] ")[2] for message in mail.messages] == ["first is held", "second is held"]
    assert "Held by the gate min_users" in slack.bodies[0]["text"]


def test_trouble_and_its_end(declare: Declare, hook: HttpReceiver) -> None:
    definitions = declare(on_call=WEBHOOK)
    note("first", "failed", "Mixpanel refused the credential (401).")
    assert tick(definitions, NOON) == "on_call/webhook: first is failing"
    note("first", "delivered", "")
    assert tick(definitions, NOON + timedelta(minutes=1)) == "on_call/webhook: first has recovered"

    failing, recovered = hook.bodies
    assert (failing["state"], failing["previous"]) == ("failing", "ok")
    assert "Mixpanel refused the credential (401)." in failing["detail"]
    assert (recovered["state"], recovered["previous"]) == ("recovered", "failing")


def test_a_channel_that_fails_makes_the_tick_red_is_tried_again_and_holds_up_no_other(
    declare: Declare, hook: HttpReceiver, slack: HttpReceiver
) -> None:
    definitions = declare(on_call=SLACK + WEBHOOK)
    note("first", "held", "why")
    slack.status = 503
    for minute in range(3):
        with pytest.raises(AlertsUntold, match="on_call/slack: Slack: the receiver answered HTTP 503") as untold:
            tick(definitions, NOON + timedelta(minutes=minute))
        assert SECRET not in "".join(traceback.format_exception(untold.value))
    slack.status = 200
    note("first", "delivered", "")
    tick(definitions, NOON + timedelta(minutes=4))

    assert [body["text"].split("*")[1] for body in slack.bodies] == ["first is held", "first has recovered"]
    assert said(hook) == [("first", "held"), ("first", "recovered")]


def test_a_variable_that_is_not_set_is_named_and_nothing_is_lost(
    declare: Declare, hook: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_URL")
    definitions = declare(on_call=WEBHOOK)
    note("first", "held", "why")
    with pytest.raises(AlertsUntold, match="HOOK_URL is not set"):
        tick(definitions, NOON)
    monkeypatch.setenv("HOOK_URL", hook.url)
    tick(definitions, NOON)

    assert said(hook) == [("first", "held")]


def test_a_variable_that_cannot_be_used_silences_no_other_channel(
    declare: Declare, hook: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_URL", "https://a\tb")
    definitions = declare(on_call=SLACK + WEBHOOK)
    note("first", "held", "why")
    with pytest.raises(AlertsUntold, match="SLACK_URL holds a line break"):
        tick(definitions, NOON)

    assert said(hook) == [("first", "held")]


def lose_the_ledger() -> History:
    """Let the history tell of a ledger that is not there."""
    for file in Path(settings.data_root()).glob("ledger*"):
        file.unlink()
    history = History(settings.history_root())
    pairing.mark(history, "the lost one", 1)
    return history


def test_a_lost_ledger_is_told_of_once_and_makes_ticks_red_until_it_is_rebuilt(
    declare: Declare, hook: HttpReceiver
) -> None:
    definitions = declare(on_call=WEBHOOK)
    _, cursor = tick_with(definitions, NOON, None)
    history = lose_the_ledger()

    says, cursor = tick_with(definitions, NOON + timedelta(minutes=1), cursor)
    assert says == "on_call/webhook: first is failing; on_call/webhook: second is failing"
    for minute in range(2, 5):
        with pytest.raises(LedgerUnpaired, match="ledger rebuild"):
            tick_with(definitions, NOON + timedelta(minutes=minute), cursor)
    assert said(hook) == [("first", "failing"), ("second", "failing")]
    assert "it is gone, and the history tells of deliveries" in hook.bodies[0]["detail"]
    assert "cohort-pipelines ledger rebuild" in hook.bodies[0]["detail"]
    assert len({body["id"] for body in hook.bodies}) == 2
    assert not Path(settings.data_root(), "ledger.sqlite").exists()

    with clock.shifted(NOON + timedelta(minutes=5) - clock.now()):
        rebuild(ledger(), history)
    says, cursor = tick_with(definitions, NOON + timedelta(minutes=6), cursor)
    assert says == "on_call/webhook: first has recovered; on_call/webhook: second has recovered"
    assert (hook.bodies[2]["state"], hook.bodies[2]["previous"]) == ("recovered", "failing")
    assert tick_with(definitions, NOON + timedelta(minutes=7), cursor) == ("Nothing to tell.", cursor)
    assert len(hook.bodies) == 4


def test_a_history_that_cannot_be_read_is_told_of_as_long_as_nothing_can_be_delivered(
    declare: Declare, hook: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions = declare(on_call=WEBHOOK + "      syncs: [first]")
    _, cursor = tick_with(definitions, NOON, None)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(LocalFileSystem, "ls", denied)
        _, cursor = tick_with(definitions, NOON + timedelta(minutes=1), cursor)
        with pytest.raises(HistoryNotReadable, match="Permission denied"):
            tick_with(definitions, NOON + timedelta(minutes=2), cursor)
    tick_with(definitions, NOON + timedelta(minutes=3), cursor)

    assert said(hook) == [("first", "failing"), ("first", "recovered")]
    assert hook.bodies[0]["detail"].startswith("The history could not be read at ")


def test_what_a_sync_suffers_after_a_ledger_was_put_back_is_news_after_failing(
    declare: Declare, hook: HttpReceiver
) -> None:
    definitions = declare(on_call=WEBHOOK + "      syncs: [first]")
    tick_with(definitions, NOON, None)
    pairing.mark(History(settings.history_root()), "another", 1)
    note("first", "held", "why")
    _, cursor = tick_with(definitions, NOON + timedelta(minutes=1), None)
    pairing.require_paired(ledger(), History(settings.history_root() + "-elsewhere"))  # any other history is its own
    Path(settings.history_root(), ".ledger", pairing.IDENTITY).unlink()
    tick_with(definitions, NOON + timedelta(minutes=2), cursor)

    assert [(body["state"], body["previous"]) for body in hook.bodies] == [("failing", "ok"), ("held", "failing")]


def test_a_channel_that_fails_while_the_ledger_is_lost_is_tried_again(
    declare: Declare, hook: HttpReceiver, slack: HttpReceiver
) -> None:
    definitions = declare(on_call=SLACK + WEBHOOK + "      syncs: [first]")
    lose_the_ledger()
    slack.status = 503
    says, cursor = tick_with(definitions, NOON, None)
    assert says.startswith("on_call/webhook: first is failing; on_call/slack: Slack: the receiver answered HTTP 503")
    with pytest.raises(LedgerUnpaired):
        tick_with(definitions, NOON + timedelta(minutes=1), cursor)
    slack.status = 200
    says, _ = tick_with(definitions, NOON + timedelta(minutes=2), cursor)

    assert says == "on_call/slack: first is failing"
    assert len(slack.bodies) == len(hook.bodies) == 1


@pytest.mark.parametrize("cursor", ["{", "7", "somebody's own words"])
def test_a_cursor_that_somebody_set_says_nothing(declare: Declare, hook: HttpReceiver, cursor: str) -> None:
    definitions = declare(on_call=WEBHOOK)
    assert tick_with(definitions, NOON, cursor)[0] == "Nothing to tell."
    lose_the_ledger()
    tick_with(definitions, NOON + timedelta(minutes=1), cursor)
    assert len(hook.bodies) == 2


def test_a_slow_channel_leaves_time_for_the_next_one(
    declare: Declare, hook: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_URL", "http://127.0.0.1:1/s3cr3t")
    definitions = declare(on_call=SLACK + WEBHOOK)
    taken: list[str] = []
    for sync in ("first", "second"):
        note(sync, "held", "why")

    with ExitStack() as later:

        def take_half_a_minute(_url: str, notice: Notice) -> None:
            taken.append(notice.sync)
            later.enter_context(clock.shifted(timedelta(seconds=30)))

        monkeypatch.setattr(notices, "to_slack", take_half_a_minute)
        told = tick(definitions, NOON)

    assert taken == ["first"]
    assert said(hook) == [("first", "held"), ("second", "held")]
    assert told.startswith("on_call/slack: first is held; on_call/webhook: first is held")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_all_channels_together_stay_within_a_tick(channels: int) -> None:
    share = alerts.TICK_SECONDS / channels - notices.SECONDS
    assert share > 0
    assert channels * (share + notices.SECONDS) < 60


def test_a_message_that_cannot_be_made_holds_up_no_other_channel(
    declare: Declare, hook: HttpReceiver, mail: MailReceiver
) -> None:
    address = EMAIL.replace("PORT", str(mail.port)).replace("ann@ours, bob@ours", '"a@["')
    definitions = declare(on_call=WEBHOOK + address)
    note("first", "held", "why")
    with pytest.raises(AlertsUntold, match=r"on_call/email: .*no message can be made with its sender and addresses"):
        tick(definitions, NOON)

    assert said(hook) == [("first", "held")]
    assert mail.messages == []


def test_the_sensor_runs_by_itself_every_minute_and_shows_no_address(declare: Declare) -> None:
    sensor = declare(on_call=SLACK + WEBHOOK).get_repository_def().get_sensor_def("on_call")

    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 60
    assert "on_call/slack, on_call/webhook" in (sensor.description or "")
    assert "first, second" in (sensor.description or "")


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ("      {}", "on_call have no channel"),
        (WEBHOOK + "      syncs: [third]", "name the sync 'third'"),
        ("      slack: https://hooks.slack.example/s3cr3t", "on_call's slack must be a reference"),
        ("      webhook: ftp://nope", "the URL must start with https:// or http://"),
        (EMAIL.replace("PORT", "25, password: s3cr3t"), "on_call's email.password must be a reference"),
        (EMAIL.replace("PORT", "0"), "port"),
        (EMAIL.replace("PORT", "25").replace("[ann@ours, bob@ours]", "[]"), "to"),
        (EMAIL.replace("PORT", "25").replace("none", "some"), "security"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_at_load(declare: Declare, attributes: str, says: str) -> None:
    said = problems(declare(on_call=attributes))["on_call"]

    assert says in said
    assert "on_call/defs.yaml" in said
    assert SECRET not in said


def test_what_dg_scaffolds_loads_and_so_does_every_attribute_that_stands_in_a_comment(tmp_path: Path) -> None:
    package = tmp_path / "scaffolded_alerts"
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    text = scaffold(package, "Alerts", "on_call")
    sensor = project_definitions(package).get_repository_def().get_sensor_def("on_call")
    assert sensor.description is not None
    assert "Tells on_call/slack once" in sensor.description

    switched_on = re.sub(r"(?m)^  # ((?!syncs)\w+: )", r"  \1", text)
    (package / "defs" / "on_call" / "defs.yaml").write_text(switched_on, encoding="utf-8")
    sensor = project_definitions(package).get_repository_def().get_sensor_def("on_call")
    assert sensor.description is not None
    assert "Tells on_call/slack, on_call/webhook, on_call/email once" in sensor.description
