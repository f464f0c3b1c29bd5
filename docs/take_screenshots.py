# ruff: noqa: INP001  a script
"""Take the README's screenshots: two syncs lived through a day against the stand-ins, looked at in a browser.

Run by `make screenshots`, from the repository's root; chromium is needed.
"""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Locator, Page, expect

from cohort_pipelines.scaffold import write_instance_files
from cohort_pipelines.standins.kept import keep, kept_settings
from cohort_pipelines.standins.server import running
from cohort_pipelines.standins.settings import Addresses
from cohort_pipelines_tests.browser import browsing
from cohort_pipelines_tests.live import serving
from cohort_pipelines_tests.live_project import APPTIMIZE, TAPLYTICS, LiveProject

IMAGES = Path(__file__).parent / "images"
WINDOWS = 24


def main() -> None:
    """Write the four images."""
    with TemporaryDirectory() as place:
        folder = Path(place).resolve() / "cohort-demo"
        standins = live_through(folder)
        with serving(folder, {}, "--standins") as dagster, browsing() as page:
            take_graph(page, dagster.url)
            take_plots(page, dagster.url)
            take(page, f"{standins.taplytics_url}/segments/Beta%20Users", "segment")
            take(page, standins.groups_url, "groups")


def live_through(folder: Path) -> Addresses:
    """Deliver the last windows of both syncs, as the demo does it, from a cohort that changes in a daily rhythm."""
    folder.mkdir()
    write_instance_files(folder)
    data = folder / "data"
    settings = replace(kept_settings(data), queries_per_hour=1000)
    churn = {back: 0.02 + 0.015 * math.sin(math.tau * back / 12) for back in reversed(range(WINDOWS))}
    with running(settings) as standins:
        keep(data, settings, standins)
        for sync in (TAPLYTICS, APPTIMIZE):
            LiveProject(folder, standins).deliver_windows(sync, churn)
    return standins


def take_graph(page: Page, ui: str) -> None:
    """Take both syncs' assets, with their groups opened."""
    groups = ",".join(f"global@global:{sync}" for sync in (TAPLYTICS, APPTIMIZE))
    page.goto(f"{ui}/asset-groups?expanded={groups}")
    expect(page.get_by_text("destination_upload", exact=True)).to_have_count(2)
    page.wait_for_timeout(3000)
    page.screenshot(path=IMAGES / "asset-graph.png")


def take_plots(page: Page, ui: str) -> None:
    page.goto(f"{ui}/assets/{TAPLYTICS}/destination_upload")
    page.get_by_text("Plots").click()
    page.wait_for_timeout(3000)
    page.screenshot(path=IMAGES / "materialization.png")


def take(page: Page, address: str, name: str) -> None:
    page.goto(address)
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
