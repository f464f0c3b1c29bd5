"""The three services put together: their states, their applications and their sockets."""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from cohort_pipelines.devtools.standins.apptimize import COHORTS, apptimize_app
from cohort_pipelines.devtools.standins.behaving import Behaving
from cohort_pipelines.devtools.standins.behaviour import Reception
from cohort_pipelines.devtools.standins.budget import QueryBudget
from cohort_pipelines.devtools.standins.faults import Faults
from cohort_pipelines.devtools.standins.groups import ApptimizeState
from cohort_pipelines.devtools.standins.mixpanel import Concurrency, MixpanelState, mixpanel_app
from cohort_pipelines.devtools.standins.population import Population
from cohort_pipelines.devtools.standins.project import Project
from cohort_pipelines.devtools.standins.settings import Addresses, Credentials, Settings
from cohort_pipelines.devtools.standins.taplytics import USERS, TaplyticsState, taplytics_app


class StandIns:
    """The three services: their states, their applications, and their sockets, which are bound but not yet served."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.credentials = Credentials()
        population = Population(settings.members, settings.id_merge, settings.seed)
        self.mixpanel = MixpanelState(
            project=Project(population),
            service_account=self.credentials.service_account,
            secret=self.credentials.secret,
            project_secret=self.credentials.project_secret,
            project_id=str(self.credentials.project_id),
            token=self.credentials.project_token,
            page_size=settings.page_size,
            budget=QueryBudget(settings.queries_per_hour, settings.concurrency),
            active_integrations=settings.active_integrations,
        )
        self.taplytics = TaplyticsState(self.credentials.taplytics_key, _knows(population), settings.taplytics)
        self.apptimize = ApptimizeState(
            self.credentials.apptimize_token, settings.apptimize_region, reception=Reception(settings.apptimize)
        )
        self.mixpanel_faults = Faults(mixpanel_app(self.mixpanel), settings.date_offset)
        self.taplytics_faults = Faults(taplytics_app(self.taplytics))
        self.apptimize_faults = Faults(apptimize_app(self.apptimize))
        self.sockets = _listening(settings.mixpanel_port, settings.taplytics_port, settings.apptimize_port)
        mixpanel, taplytics, apptimize = (f"http://127.0.0.1:{_port(one)}" for one in self.sockets)
        self.addresses = Addresses(
            mixpanel_url=mixpanel,
            taplytics_url=taplytics,
            apptimize_url=f"{apptimize}{COHORTS}",
            credentials=self.credentials,
        )
        self._load()

    def app(self) -> ASGIApp:
        """Return one application for all three, told apart by the port that a request came to."""
        apps: tuple[ASGIApp, ...] = (
            Concurrency(self.mixpanel_faults, self.mixpanel.budget),
            Behaving(self.taplytics_faults, self.taplytics, USERS),
            Behaving(self.apptimize_faults, self.apptimize, COHORTS),
        )
        by_port = {_port(one): app for one, app in zip(self.sockets, apps, strict=True)}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await by_port[scope["server"][1]](scope, receive, send)

        return app

    def save(self) -> None:
        """Write what the servers were told into the state file, if the settings name one."""
        if self.settings.state_file:
            states = {name: one.dump() for name, one in self._kept()}
            Path(self.settings.state_file).write_bytes(msgspec.msgpack.encode(states))

    def _load(self) -> None:
        if self.settings.state_file and Path(self.settings.state_file).exists():
            states = msgspec.msgpack.decode(Path(self.settings.state_file).read_bytes())
            for name, one in self._kept():
                one.load(states[name])

    def _kept(self) -> tuple[tuple[str, Project | TaplyticsState | ApptimizeState], ...]:
        return ("project", self.mixpanel.project), ("taplytics", self.taplytics), ("apptimize", self.apptimize)


def _knows(population: Population) -> Callable[[str], bool]:
    """Return who has used the app: all but one in twenty of the users."""

    def knows(user_id: str) -> bool:
        number = population.number_of(user_id)
        return number is not None and number % 20 != 0

    return knows


def _listening(*ports: int) -> list[socket.socket]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", port), backlog=2048)) for port in ports]
        opened.pop_all()  # all are open: they stay so
    return sockets


def _port(one: socket.socket) -> int:
    port: int = one.getsockname()[1]
    return port
