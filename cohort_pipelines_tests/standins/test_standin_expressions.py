from datetime import UTC, datetime, timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.expressions import ExpressionRefused, selector, type_of

PROFILE = {
    "plan": "beta",
    "sessions": 7,
    "score": -7.5,
    "lapsed": False,
    "tags": ["a", "b"],
    "address": {"city": "Ulm"},
    "$last_seen": "2026-11-20T12:00:00",
    'odd "name"': "x\\y",
}


@pytest.mark.parametrize(
    "expression",
    [
        'properties["plan"] == "beta"',
        'properties["plan"] != "free"',
        'properties["nothing"] != "free"',
        'properties["sessions"] == 7 and properties["sessions"] == 7.0',
        'not properties["sessions"] == "7"',
        'not properties["lapsed"] == 0',
        'properties["lapsed"] == false',
        'properties["sessions"] > 6 and properties["sessions"] <= 7',
        '(properties["sessions"] < 3 or properties["sessions"] > 6)',
        'properties["$last_seen"] >= "2026-11-01T00:00:00"',
        'properties["sessions"] in [1, 2, 7]',
        '"et" in properties["plan"]',
        '"a" in properties["tags"]',
        'not "xyz" in properties["plan"]',
        'defined(properties["plan"]) and not defined(properties["nothing"])',
        'properties["odd \\"name\\""] == "x\\\\y"',
        'properties["sessions"] + 1 == 8 and "a" + "b" == "ab"',
        'properties["score"] % 2 == -1.5 and 2 * 3 - 4 / 2 == 4',
        "floor(1.7) == 1 and ceil(1.2) == 2 and round(1.6) == 2",
        '-properties["sessions"] == -7',
        'string(properties["sessions"]) == "7" and string(true) == "true" and string("a") == "a"',
        'number("1.5") == 1.5 and number(true) == 1 and not defined(number("one"))',
        'datetime(properties["$last_seen"]) >= datetime("2026-11-20T00:00:00")',
        'datetime(properties["$last_seen"]) == datetime(1795176000)',
        "datetime(1795176000) == datetime(1795176000000)",
        "datetime(NOW - 60) < datetime(NOW) and datetime(NOW) < datetime(NOW + 60)",
        "true",
    ],
)
def test_an_expression_is_true(expression: str) -> None:
    assert selector(expression)(PROFILE)


@pytest.mark.parametrize(
    "expression",
    [
        'properties["sessions"] > "6"',
        'properties["nothing"] > 6',
        'properties["nothing"]',
        'properties["lapsed"] < true',
        '1 in properties["plan"]',
        'properties["address"] == "Ulm"',
        "1 / 0 == 1 or 1 % 0 == 1",
        'defined(-properties["plan"])',
        'defined(properties["plan"] + 1)',
        'defined(not properties["plan"])',
        'defined(floor(properties["plan"]))',
        'defined(string(properties["tags"])) or defined(number(properties["tags"]))',
        'defined(datetime(properties["plan"])) or defined(datetime(properties["lapsed"]))',
        'properties["$last_seen"] == datetime("2026-11-20T12:00:00")',
        "false",
    ],
)
def test_an_undefined_or_false_expression_selects_no_profile(expression: str) -> None:
    assert not selector(expression)(PROFILE)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "plan == ",
        "\0",
        "(" * 500,
        "not " * 5000 + "true",
        "plan",
        "True",
        "[1]",
        "1 < 2 < 3",
        '"a" not in "abc"',
        '"a" is "a"',
        "2 ** 3",
        "~1",
        "+1",
        "1j == 1",
        'b"a" == b"a"',
        'f"{1}" == "1"',
        "__import__('os')",
        'properties.get("plan")',
        'properties[1] == "beta"',
        'properties["$distinct_id"] == "a"',
        'user["$email"] == "a"',
        'behaviors["a"] > 0',
        'boolean(properties["plan"])',
        'list(properties["tags"]) == "a"',
        'datetime("2026-11-20") == datetime(NOW)',
        'datetime("2026-11-31T00:00:00") == datetime(NOW)',
        'starts_with(properties["plan"], "b")',
        'defined(properties["plan"], 1)',
    ],
)
def test_what_is_not_documented_is_refused(expression: str) -> None:
    with pytest.raises(ExpressionRefused):
        selector(expression)


@pytest.mark.parametrize("expression", ['properties["plan"]', "1 + 1", 'properties["sessions"] and true', "true or 5"])
def test_no_boolean_where_one_must_be_is_refused(expression: str) -> None:
    test = selector(expression)
    with pytest.raises(ExpressionRefused, match="stands where a boolean must"):
        test(PROFILE)


def test_now_is_the_clock_of_the_process() -> None:
    seen = {"$last_seen": f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%dT%H:%M:%S}"}
    recent = selector('datetime(properties["$last_seen"]) >= datetime(NOW - 432000)')
    assert recent(seen)
    with clock.shifted(timedelta(days=3)):
        assert not recent(seen)


def test_types_have_the_names_that_mixpanel_gives_them() -> None:
    assert {name: type_of(value) for name, value in PROFILE.items()} == {
        "plan": "string",
        "sessions": "number",
        "score": "number",
        "lapsed": "boolean",
        "tags": "list",
        "address": "object",
        "$last_seen": "string",
        'odd "name"': "string",
    }
