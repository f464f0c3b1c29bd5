"""The stand-ins, shared by all tests of the partners: each test writes to a target of its own."""

import socket
from collections.abc import Iterator

import pytest

from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Settings


@pytest.fixture(scope="session")
def services() -> Iterator[InThread]:
    with in_thread(Settings(members=100)) as running:
        yield running


@pytest.fixture
def standins(services: InThread) -> Iterator[InThread]:
    yield services
    services.standins.taplytics_faults.clear()
    services.standins.apptimize_faults.clear()


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
