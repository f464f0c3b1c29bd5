"""The stand-ins in a thread, and a plain HTTP client for each of them."""

from collections.abc import Iterator
from urllib.parse import urljoin

import httpx
import pytest

from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.services import StandIns
from cohort_pipelines.devtools.standins.settings import Settings


@pytest.fixture
def addresses() -> Iterator[InThread]:
    with in_thread(Settings(members=2500)) as running:
        yield running


@pytest.fixture
def standins(addresses: InThread) -> StandIns:
    return addresses.standins


@pytest.fixture
def mixpanel(addresses: InThread) -> Iterator[httpx.Client]:
    credentials = addresses.credentials
    auth = (credentials.service_account, credentials.secret)
    params = {"project_id": credentials.project_id}
    with httpx.Client(base_url=addresses.mixpanel_url, auth=auth, params=params) as client:
        yield client


@pytest.fixture
def taplytics(addresses: InThread) -> Iterator[httpx.Client]:
    headers = {"x-access-token": addresses.credentials.taplytics_key}
    with httpx.Client(base_url=addresses.taplytics_url, headers=headers) as client:
        yield client


@pytest.fixture
def apptimize(addresses: InThread) -> Iterator[httpx.Client]:
    headers = {"ApptimizeApiToken": addresses.credentials.apptimize_token}
    with httpx.Client(base_url=urljoin(addresses.apptimize_url, "/"), headers=headers) as client:
        yield client
