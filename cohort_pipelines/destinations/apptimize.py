"""Apptimize: a cohort is a group, by cohort messages to a URL of the user's (`http`) or by files (`file`).

Apptimize documents no call that writes a group. What it documents is the dashboard's import of a one-column CSV
(apptimize.com/docs/additional-features/groups) and the token header of its REST API
(apptimize.com/docs/apis/rest-api.html); that a token of the Tokens page belongs into that header is not verified, so
the header is a setting.
"""

from pathlib import Path
from typing import Literal

from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.exchange import checked_header
from cohort_pipelines.destinations.messages import MEMBER_ID_KEY
from cohort_pipelines.destinations.receiver import CohortMessages

APPTIMIZE_HEADER = "ApptimizeApiToken"

Region = Literal["na", "eu"]


def apptimize_http(
    *,
    url: str,
    token: str,
    region: Region,
    account: str = "",
    header: str = APPTIMIZE_HEADER,
    id_key: str = MEMBER_ID_KEY,
    project_id: int = 0,
    cohort_id: int = 0,
) -> CohortMessages:
    """Return the receiver at ``url``, which writes the group of that region's Apptimize on behalf of the user.

    ``account`` is a label that tells apart two accounts behind one receiver.

    Raises:
        DestinationInvalid: a setting cannot be sent as it is.
    """
    partner = _name(region)
    return CohortMessages(
        partner=partner,
        url=url,
        headers=checked_header(partner, header, token),
        project_id=project_id,
        cohort_id=cohort_id,
        account=f"{region}/{account}" if account else region,
        id_key=id_key,
    )


def apptimize_file(*, folder: str | Path, region: Region) -> CsvFile:
    """Return the folder whose files a person imports into a group of that region's dashboard."""
    return CsvFile(partner=_name(region), folder=Path(folder))


def _name(region: Region) -> str:
    return f"Apptimize ({region.upper()})"
