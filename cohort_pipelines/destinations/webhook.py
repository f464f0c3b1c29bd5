"""The plain webhook: Mixpanel's cohort messages to any receiver, with the ways of signing in that are documented."""

from base64 import b64encode
from typing import Literal
from urllib.parse import quote, urlsplit

from cohort_pipelines.core.errors import DestinationInvalid
from cohort_pipelines.destinations.exchange import checked_header
from cohort_pipelines.destinations.messages import MEMBER_ID_KEY
from cohort_pipelines.destinations.receiver import CohortMessages

Auth = Literal["none", "basic", "bearer", "header", "query"]

_NAME = "The webhook"


def webhook(
    *,
    url: str,
    auth: Auth = "none",
    secret: str = "",
    username: str = "",
    name: str = "",
    account: str = "",
    id_key: str = MEMBER_ID_KEY,
    project_id: int = 0,
    cohort_id: int = 0,
) -> CohortMessages:
    """Return a receiver of cohort messages at ``url``.

    Args:
        url: where messages are posted.
        auth: `basic` (Mixpanel's own; Flagsmith), `bearer` (Flagsmith), a `header` or `query` parameter called
            ``name`` (Statsig takes its key as the parameter `statsig-api-key`).
        secret: the password, token or key.
        username: for `basic`.
        name: the header or parameter that carries the secret.
        account: tells apart receivers behind one host.
        id_key: the member's key that holds the partner user id.
        project_id: Mixpanel's project, named in each message.
        cohort_id: Mixpanel's cohort, named in each message.

    Raises:
        DestinationInvalid: a setting is missing or cannot be sent as it is.
    """
    return CohortMessages(
        partner=_NAME,
        url=_with_parameter(url, name, secret) if auth == "query" else url,
        headers=_headers(auth, secret, username, name),
        project_id=project_id,
        cohort_id=cohort_id,
        account=account,
        id_key=id_key,
    )


def _headers(auth: Auth, secret: str, username: str, name: str) -> dict[str, str]:
    if auth in {"none", "query"}:
        return {}
    if auth == "header":
        return checked_header(_NAME, name, secret)
    if not secret:
        raise DestinationInvalid(_NAME, f"auth: {auth} needs a secret")
    if auth == "bearer":
        return checked_header(_NAME, "authorization", f"Bearer {secret}")
    return checked_header(_NAME, "authorization", f"Basic {b64encode(f'{username}:{secret}'.encode()).decode()}")


def _with_parameter(url: str, name: str, secret: str) -> str:
    if not name or not secret:
        raise DestinationInvalid(_NAME, "auth: query needs the parameter's name and a secret")
    parts = urlsplit(url)
    parameter = f"{quote(name, safe='')}={quote(secret, safe='')}"
    return parts._replace(query=f"{parts.query}&{parameter}" if parts.query else parameter, fragment="").geturl()
