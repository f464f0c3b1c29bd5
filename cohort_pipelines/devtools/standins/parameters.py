"""What a client asked, wherever it put it: in the URL, in a form or in JSON, as text or as an object.

The real server tries JSON first, then a form, and lets the body go over the URL (mixpanel-headless, pacer.py).
"""

import math
from collections.abc import Collection
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from cohort_pipelines.devtools.standins.mixpanel_answers import bad_request

Parameters: TypeAlias = dict[str, Any]

_EVERYWHERE = frozenset(
    {"project_id", "query_origin"}
)  # the latter names the client (mixpanel-headless, api_client.py)


async def read_parameters(request: Request) -> Parameters:
    """Return the parameters of a request."""
    parameters: Parameters = dict(request.query_params)
    body = await request.body()
    if body:
        try:
            decoded = msgspec.json.decode(body)
        except msgspec.DecodeError:
            decoded = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        parameters |= decoded if isinstance(decoded, dict) else {"data": decoded}  # "data": profile updates
    return parameters


def require_known(parameters: Parameters, known: Collection[str], where: str) -> None:
    """Refuse a request that carries a parameter which would be ignored.

    Raises:
        Answer: 400, it carries another than ``known`` ones.
    """
    for name in parameters:
        if name not in known and name not in _EVERYWHERE:
            raise bad_request(where, f"{name} is not supported by this stand-in")


def asked(request: Request) -> str:
    """Return the path with its query, as Mixpanel repeats it in refusals."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def decoded(value: Any, where: str) -> Any:  # noqa: ANN401  JSON, as text or as an object
    """Return a parameter that holds JSON, or is it already.

    Raises:
        Answer: 400, the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise bad_request(where, "invalid JSON in a parameter") from None


def whole_number(value: Any, default: int, where: str) -> int:  # noqa: ANN401  a number or its text
    """Return a parameter that is a whole number; ``default`` when it is absent or empty.

    Raises:
        Answer: 400, it is something else.
    """
    try:
        number = default if value in (None, "") else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number != int(number):
        raise bad_request(where, "a parameter is not a whole number")
    return int(number)


def strings(value: Any, where: str) -> list[str] | None:  # noqa: ANN401  JSON, as text or as an object
    """Return a parameter that is a JSON array of strings; None when it is absent or empty text.

    Raises:
        Answer: 400, it is something else.
    """
    if value in (None, ""):
        return None
    try:
        return msgspec.convert(decoded(value, where), list[str])
    except msgspec.ValidationError:
        raise bad_request(where, "a parameter is not a JSON array of strings") from None


def boolean(value: Any, where: str) -> bool:  # noqa: ANN401  true or false, as text or as itself
    """Return a parameter that is true or false.

    Raises:
        Answer: 400, it is something else.
    """
    match str(value).lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise bad_request(where, "a parameter is neither true nor false")
