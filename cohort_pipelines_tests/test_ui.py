"""What a person sees after the demo: Dagster's UI, the Taplytics segment and the Apptimize group, in a browser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page, expect

from cohort_pipelines import history
from cohort_pipelines.devtools.processes import HOST
from cohort_pipelines.devtools.standins.kept import kept_settings
from cohort_pipelines_tests.browser import CHROMIUM, NO_CHROMIUM, browsing
from cohort_pipelines_tests.live import serving

pytestmark = pytest.mark.slow

TAPLYTICS = "beta_users_taplytics"
APPTIMIZE = "beta_users_apptimize"
STAGES = ("cohort_snapshot", "identified_users", "partner_payload", "destination_upload")
PATIENCE = 30_000  # milliseconds

each_sync = pytest.mark.parametrize("sync", [TAPLYTICS, APPTIMIZE])


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if CHROMIUM is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(NO_CHROMIUM)
    expect.set_options(timeout=PATIENCE)
    with browsing() as page:
        yield page


@pytest.fixture(scope="module")
def demo(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001  no demo without a browser
    folder = tmp_path_factory.mktemp("ui") / "cohort-demo"
    command = [sys.executable, "-m", "cohort_pipelines", "demo", "--members", "2000", "--folder", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def ui(demo: Path) -> Iterator[str]:
    with serving(demo, {}, "--standins") as dagster:
        yield dagster.url


def receipt_of(demo: Path, sync: str) -> pd.Series:
    return history.receipts(sync, root=demo / "data" / "history").iloc[-1]


@each_sync
def test_the_asset_graph_shows_the_four_assets_of_a_sync(page: Page, ui: str, sync: str) -> None:
    page.goto(f"{ui}/locations/cohort_pipelines/asset-groups/{sync}/lineage")

    for stage in STAGES:
        expect(page.get_by_text(stage, exact=True)).to_be_visible()


@each_sync
def test_a_materialization_shows_the_numbers_of_its_receipt(page: Page, ui: str, demo: Path, sync: str) -> None:
    receipt = receipt_of(demo, sync)
    page.goto(f"{ui}/assets/{sync}/destination_upload")
    page.get_by_role("tab", name="Partitions").click()
    page.get_by_text(receipt["window"], exact=True).filter(visible=True).last.click()  # the first ends a range

    for name in ("users", "joiners", "leavers", "requests"):
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        expect(row.get_by_role("cell").nth(1)).to_have_text(str(receipt[name]))
    assert receipt["joiners"] == receipt["leavers"] == 20


def test_the_segment_has_as_many_users_as_the_payload(page: Page, ui: str, demo: Path) -> None:  # noqa: ARG001  serves it
    payload = history.read(TAPLYTICS, "partner_payload", root=demo / "data" / "history")
    page.goto(f"http://{HOST}:{kept_settings(demo / 'data').taplytics_port}/")
    page.get_by_role("link", name="Beta Users").click()

    expect(page.get_by_role("heading", name="Segment editor")).to_be_visible()
    expect(page.locator("[data-users]")).to_have_text(f"{len(payload):,}")
    assert len(payload) > 1_800


def test_the_groups_page_has_the_group_with_as_many_users_as_the_payload(page: Page, ui: str, demo: Path) -> None:  # noqa: ARG001
    payload = history.read(APPTIMIZE, "partner_payload", root=demo / "data" / "history")
    page.goto(f"http://{HOST}:{kept_settings(demo / 'data').apptimize_port}/groups")

    group = page.locator("section", has=page.get_by_role("heading", name="Mixpanel: Beta Users"))
    expect(group.locator("[data-users]")).to_have_text(f"{len(payload):,} users")
    assert len(payload) > 1_700
