"""What a client asked, wherever it put it: in the URL, in a form or in JSON, as text or as an object.

The real server tries JSON first, then a form, and lets the body go over the URL (mixpanel-headless, pacer.py).
"""

import math
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from cohort_pipelines.standins.mixpanel_answers import bad_request

Parameters: TypeAlias = dict[str, Any]


async def read_parameters(request: Request) -> Parameters:
    """Return the parameters of a request."""
    parameters: Parameters = dict(request.query_params)
    body = await request.body()
    if body:
        try:
            decoded = msgspec.json.decode(body)
        except msgspec.DecodeError:
            decoded = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if isinstance(decoded, dict):
            parameters |= decoded
    return parameters


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
