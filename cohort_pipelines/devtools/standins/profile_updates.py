"""Profile updates (``/engage`` of the ingestion API): ``$set``, ``$unset`` and ``$delete``; others are refused.

Facts: docs.mixpanel.com reference/profile-set. The updates are a JSON body or ``data``, which mixpanel-utils and the
browser's library send in base64. An update with another token, or of no user, is accepted and changes nothing.
"""

import base64
import binascii
from typing import Any

from cohort_pipelines.devtools.standins.mixpanel_answers import bad_request
from cohort_pipelines.devtools.standins.parameters import Parameters, decoded, require_known
from cohort_pipelines.devtools.standins.project import Project

_PARTS = frozenset({"$token", "$distinct_id", "$set", "$unset", "$delete", "$ignore_time", "$ignore_alias", "$ip"})


def profile_updates(parameters: Parameters, where: str) -> list[Parameters]:
    """Return the updates that a request carries.

    Raises:
        Answer: 400, they cannot be read, or one of them asks for what is not supported.
    """
    one = {name: value for name, value in parameters.items() if name.startswith("$")}
    require_known(parameters, {"data", "verbose", *one}, where)
    data = _plain(parameters.get("data", one), where)
    updates = [update for update in (data if isinstance(data, list) else [data]) if isinstance(update, dict)]
    for update in updates:
        require_known(update, _PARTS, where)
        if update.get("$ip") not in (None, 0, "0"):
            raise bad_request(where, "only a $ip of 0 is supported by this stand-in")
    return updates


def apply_update(project: Project, token: str, update: Parameters, where: str) -> None:
    """Change a profile as an update says.

    Raises:
        Answer: 400, it is to pass over an alias.
    """
    if update.get("$token") != token or not update.get("$distinct_id"):
        return
    distinct_id = str(update["$distinct_id"])
    number = project.find(distinct_id)
    if update.get("$ignore_alias") and number is not None and project.distinct_id(number) != distinct_id:
        raise bad_request(where, "$ignore_alias with an alias is not supported by this stand-in")
    if "$delete" in update:
        project.delete(distinct_id)
    else:
        properties = update.get("$set", {}) | dict.fromkeys(update.get("$unset", []))
        project.set(distinct_id, properties, seen=not update.get("$ignore_time"))


def _plain(data: Any, where: str) -> Any:  # noqa: ANN401  JSON, as text or as an object
    if isinstance(data, str) and not data.lstrip().startswith(("[", "{")):
        try:
            data = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise bad_request(where, "data is neither JSON nor JSON in base64") from None
    return decoded(data, where)
