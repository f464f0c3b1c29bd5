"""Take a snapshot of a cohort from the Mixpanel stand-in, which runs in a process of its own.

The same pages are also downloaded and thrown away, over the same transport, so that what the snapshot costs on top of
the wire is a ratio within one run: python -m benchmarks.read_cohort --members 100000 1000000
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import msgspec

from benchmarks.measuring import Cost, measured
from cohort_pipelines.core import http
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project
from cohort_pipelines.snapshots.taking import take_snapshot

AT_ONCE = 5
PROPERTIES = ("$apptimize_user_id",)


def main() -> None:
    """Measure each size that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[100_000])
    parser.add_argument("--page-size", type=int, default=1_000)
    arguments = parser.parse_args()
    for members in arguments.members:
        with running(Settings(members=members, page_size=arguments.page_size)) as standins:
            _compare(standins, members)


def _compare(standins: Addresses, members: int) -> None:
    asyncio.run(_download(standins, limit=1))  # the stand-in lists the cohort once
    with measured() as wire:
        received = asyncio.run(_download(standins))
    print(f"{members:,} members, {received / 1e6:,.0f} MB of JSON")
    print(f"  download only   {wire}")
    with tempfile.TemporaryDirectory() as folder:
        snapshot, size = _snapshot(standins, Path(folder), members)
    print(f"  snapshot        {snapshot}")
    print(f"  {members / snapshot.seconds:,.0f} members a second, {size / members:.1f} bytes a member in the file")
    print(
        f"  snapshot to download: {snapshot.seconds / wire.seconds:.2f} in seconds, {snapshot.cpu / wire.cpu:.2f} CPU"
    )


def _snapshot(standins: Addresses, folder: Path, members: int) -> tuple[Cost, int]:
    with measured() as cost:
        taken = take_snapshot(
            Project(
                project_id=standins.credentials.project_id,
                service_account=standins.credentials.service_account,
                secret=standins.credentials.secret,
                api_url=standins.mixpanel_url,
            ),
            standins.credentials.cohort_id,
            History(folder),
            sync="benchmark",
            window=one_time_window("now"),
            properties=PROPERTIES,
        )
    if taken.rows != members:
        message = f"{taken.rows:,} rows of {members:,} members"
        raise SystemExit(message)
    return cost, taken.file.size


async def _download(standins: Addresses, limit: int | None = None) -> int:
    """Ask for every page (or the first ``limit``), five at a time, and return the bytes."""
    credentials = standins.credentials
    auth = http.BasicAuth(credentials.service_account, credentials.secret)
    cohort = {"filter_by_cohort": f'{{"id": {credentials.cohort_id}}}'}
    url = f"/api/query/engage?project_id={credentials.project_id}"
    async with http.client(standins.mixpanel_url, connections=AT_ONCE, auth=auth) as client:
        first = (await client.post(url, data=cohort)).raise_for_status()
        answer = msgspec.json.decode(first.content)
        pages = iter(range(1, limit or -(-answer["total"] // answer["page_size"])))

        async def work() -> int:
            received = 0
            for page in pages:
                form = cohort | {"session_id": answer["session_id"], "page": str(page)}
                received += len((await client.post(url, data=form)).raise_for_status().content)
            return received

        return len(first.content) + sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))))


if __name__ == "__main__":
    main()
