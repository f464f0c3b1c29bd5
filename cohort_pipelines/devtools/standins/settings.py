"""How the stand-ins are started, and where they then are."""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urljoin

from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.population import IdMerge
from cohort_pipelines.devtools.standins.project import BETA_USERS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the stand-ins are made of; a port of 0 is any free one.

    ``date_offset``: seconds by which Mixpanel's clock is wrong. ``active_integrations``: how many a cohort of Mixpanel
    is synced to. ``taplytics`` and ``apptimize``: how the partners behave.
    ``state_file`` keeps what the servers were told: it is read at the start, if it is there, and written at the end.
    """

    members: int = 10_000
    id_merge: IdMerge = "original"
    page_size: int = 1000
    seed: int = 1
    queries_per_hour: int = 60
    concurrency: int = 5
    date_offset: float = 0.0
    active_integrations: int = 0
    apptimize_region: Literal["na", "eu"] = "eu"
    taplytics: Behaviour = field(default_factory=Behaviour)
    apptimize: Behaviour = field(default_factory=Behaviour)
    mixpanel_port: int = 0
    taplytics_port: int = 0
    apptimize_port: int = 0
    state_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The stand-ins' keys: no secrets, but all different and all checked."""

    service_account: str = "exporter.1a2b3c.mp-service-account"
    secret: str = "standin-mixpanel-secret"  # noqa: S105  a stand-in's
    project_secret: str = "standin-project-secret"  # noqa: S105  a stand-in's
    project_id: int = 2_529_987
    project_token: str = "standin-project-token"  # noqa: S105  a stand-in's
    cohort_id: int = BETA_USERS
    taplytics_key: str = "standin-taplytics-key"
    apptimize_token: str = "standin-apptimize-token"  # noqa: S105  a stand-in's


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the stand-ins are; ``apptimize_url`` is the message receiver's own URL."""

    mixpanel_url: str
    taplytics_url: str
    apptimize_url: str
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def groups_url(self) -> str:
        """The Groups page beside the receiver."""
        return urljoin(self.apptimize_url, "/groups")

    def environment(self) -> dict[str, str]:
        """Return the environment variables that the demo's declarations refer to."""
        return {
            "MIXPANEL_API_URL": self.mixpanel_url,
            "MIXPANEL_SERVICE_ACCOUNT": self.credentials.service_account,
            "MIXPANEL_SECRET": self.credentials.secret,
            "TAPLYTICS_URL": self.taplytics_url,
            "TAPLYTICS_API_KEY": self.credentials.taplytics_key,
            "APPTIMIZE_URL": self.apptimize_url,
            "APPTIMIZE_TOKEN": self.credentials.apptimize_token,
            "APPTIMIZE_GROUPS_URL": self.groups_url,
        }
