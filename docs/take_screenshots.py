# ruff: noqa: INP001  a script
"""Take the README's screenshots: both syncs lived through some days against the stand-ins, looked at in a browser.

Run by `make screenshots` from the repository's root. It needs chromium, and takes about four minutes.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Locator, Page, expect

from cohort_pipelines.devtools.scaffold import write_instance_files
from cohort_pipelines.devtools.standins.kept import keep, kept_settings
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses
from cohort_pipelines_tests.browser import browsing
from cohort_pipelines_tests.live import Live, serving, until
from cohort_pipelines_tests.live_project import APPTIMIZE, TAPLYTICS, LiveProject

IMAGES = Path(__file__).parent / "images"
WINDOWS = {TAPLYTICS: 124, APPTIMIZE: 8}  # the UI plots the last 120: the first overwrite would dwarf all the others
DAY = 12  # windows of Taplytics
PATIENCE = 60_000  # milliseconds
MARGIN = 32  # pixels below a page's content


def main() -> None:
    """Write the four images."""
    expect.set_options(timeout=PATIENCE)
    with TemporaryDirectory() as place:
        folder = Path(place).resolve() / "cohort-demo"
        standins = live_through(folder)
        with serving(folder, {}, "--standins") as dagster, browsing() as page:
            run_checks(dagster)
            take_graph(page, dagster.url)
            take_plots(page, dagster.url)
            take_page(page, f"{standins.taplytics_url}/segments/Beta%20Users", "segment")
            take_page(page, standins.groups_url, "groups")


def live_through(folder: Path) -> Addresses:
    """Deliver the last windows of both syncs as the demo does, from a cohort that changes more by day than by night."""
    folder.mkdir()
    write_instance_files(folder)
    data = folder / "data"
    settings = replace(kept_settings(data, members=2000), queries_per_hour=1000)
    with running(settings) as standins:
        keep(data, settings, standins)
        for sync, windows in WINDOWS.items():
            LiveProject(folder, standins).deliver_windows(sync, dict(changes(windows)))
    return standins


def changes(windows: int) -> Iterator[tuple[int, float]]:
    """Yield which fraction of the cohort changes after each of the last ``windows``, the oldest first."""
    luck = random.Random(1)  # noqa: S311  the same pictures every time
    for back in reversed(range(windows)):
        yield back, 0.025 + 0.012 * math.sin(math.tau * back / DAY) + luck.uniform(-0.008, 0.008)


def run_checks(dagster: Live) -> None:
    """Run the checks that no sync runs by itself, as the UI's `Execute` does."""
    mutation = """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
        ... on LaunchRunSuccess { run { runId } } } }"""
    query = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"
    checks = [("cohort_snapshot", "connected"), ("destination_upload", "fresh")]
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": "cohort_pipelines",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [],
        "assetCheckSelection": [
            {"assetKey": {"path": [sync, asset]}, "name": name} for sync in WINDOWS for asset, name in checks
        ],
    }
    launched = dagster.ask(mutation, params={"mode": "default", "selector": selector})
    until(lambda: dagster.ask(query, run=launched["run"]["runId"])["status"] == "SUCCESS", "the end of the checks")


def take_graph(page: Page, ui: str) -> None:
    """Take both syncs' assets, in groups that are open."""
    page.set_viewport_size({"width": 1400, "height": 820})
    page.goto(f"{ui}/asset-groups?expanded={','.join(f'global@global:{sync}' for sync in WINDOWS)}")
    page.get_by_text("Hide navigation").click()
    page.get_by_role("button", name="panel_show_right").click()
    page.mouse.dblclick(700, 780)  # fits the graph into its place
    expect(page.get_by_text("1 / 1 Passed")).to_have_count(4)
    expect(page.get_by_text("2 / 2 Passed")).to_have_count(2)
    until_still(page.get_by_text("destination_upload", exact=True).last)
    page.screenshot(path=IMAGES / "asset-graph.png")


def take_plots(page: Page, ui: str) -> None:
    """Take the plots of an upload's numbers over its partitions."""
    page.set_viewport_size({"width": 1400, "height": 1155})  # three rows of plots
    page.goto(f"{ui}/assets/{TAPLYTICS}/destination_upload")
    for section in ("Status", "Description"):
        page.get_by_role("button", name=section).click()  # folds it
    page.get_by_text("Plots", exact=True).click()
    expect(page.get_by_text("in_doubt", exact=True)).to_be_visible()
    page.mouse.click(700, 25)  # away from the button, which has the focus
    until_still(page.locator("canvas").last)
    page.screenshot(path=IMAGES / "materialization.png")


def take_page(page: Page, address: str, name: str) -> None:
    """Take a page of a stand-in, down to where its content ends."""
    page.set_viewport_size({"width": 960, "height": 800})
    page.goto(address)
    content = page.locator("main").bounding_box()
    assert content is not None  # noqa: S101  it is visible
    end = content["y"] + content["height"] + MARGIN
    page.screenshot(path=IMAGES / f"{name}.png", clip={"x": 0, "y": 0, "width": 960, "height": end})


def until_still(moving: Locator) -> None:
    """Wait until an animation has come to its end: the same place at two looks."""
    places = [moving.bounding_box()]

    def still() -> bool:
        places.append(moving.bounding_box())
        return places[-1] == places[-2]

    until(still, "the end of an animation")


if __name__ == "__main__":
    main()
