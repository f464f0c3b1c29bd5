"""A Mixpanel project, and how to reach and enter it."""

from dataclasses import dataclass, field
from typing import Literal

Region = Literal["us", "eu", "in"]

HOSTS: dict[Region, str] = {
    "us": "https://mixpanel.com",
    "eu": "https://eu.mixpanel.com",
    "in": "https://in.mixpanel.com",
}

MAX_PAGE_BYTES = 64 * 2**20  # a page of a thousand members with all their properties is some MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project and the service account that reads it.

    Attributes:
        project_id: the project's number.
        region: where its data lives (docs.mixpanel.com, Query API: servers).
        service_account: the account's user name.
        secret: the account's secret; never shown.
        api_url: another scheme and host than the region's, for a proxy or a stand-in.
        workspace_id: the global data view, where the project has data views.
        max_page_bytes: how large a page of members may be, unpacked; a larger one is refused.
    """

    project_id: int
    region: Region = "us"
    service_account: str
    secret: str = field(repr=False)
    api_url: str | None = None
    workspace_id: int | None = None
    max_page_bytes: int = MAX_PAGE_BYTES

    @property
    def base_url(self) -> str:
        """Scheme and host of the project's API."""
        return self.api_url or HOSTS[self.region]

    @property
    def query(self) -> dict[str, int]:
        """The parameters that every query of the project carries in its URL."""
        workspace = {} if self.workspace_id is None else {"workspace_id": self.workspace_id}
        return {"project_id": self.project_id, **workspace}
