from typing import Any

import msgspec
import pytest

from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.mixpanel.pages import Page, page_decoder, snapshot_schema

ID = "$apptimize_user_id"


def page_of(*results: bytes, properties: tuple[str, ...] = (), all_have_profiles: bool = False) -> Page:
    body = b'{"page":0,"page_size":1000,"session_id":"1-A","total":3,"status":"ok","results":[%s]}' % b",".join(results)
    return page_decoder(properties, all_have_profiles=all_have_profiles)(body)


def column(page: Page, name: str) -> list[Any]:
    values: list[Any] = page.members[name].to_pylist()
    return values


def test_a_page_becomes_rows_and_what_it_says_about_itself() -> None:
    page = page_of(
        b'{"$distinct_id":"a","$properties":{"$email":"a@example.com","$apptimize_user_id":"i_a"}}',
        b'{"$distinct_id":"b","$properties":{}}',
        properties=(ID,),
    )
    assert (page.number, page.size, page.session, page.total, page.anonymous) == (0, 1000, "1-A", 3, 1)
    assert page.members.schema == snapshot_schema((ID,))
    assert page.members.to_pylist() == [
        {"distinct_id": "a", "has_profile": True, "page": 0, ID: "i_a"},
        {"distinct_id": "b", "has_profile": False, "page": 0, ID: None},
    ]


@pytest.mark.parametrize("properties", [b"{}", b"{ \n }", b"null"])
def test_an_empty_profile_is_none(properties: bytes) -> None:
    page = page_of(b'{"$distinct_id":"a","$properties":%s}' % properties, properties=(ID,))
    assert column(page, "has_profile") == [False]
    assert column(page, ID) == [None]


def test_no_properties_at_all_are_no_profile() -> None:
    assert column(page_of(b'{"$distinct_id":"a"}'), "has_profile") == [False]


def test_a_page_without_anonymous_members_says_nothing_by_empty_properties() -> None:
    page = page_of(b'{"$distinct_id":"a","$properties":{}}', all_have_profiles=True)
    assert column(page, "has_profile") == [True]


def test_an_integer_id_is_kept_as_text() -> None:
    ids = column(page_of(b'{"$distinct_id":4}', b'{"$distinct_id":123456789012345678901}'), "distinct_id")
    assert ids == ["4", "123456789012345678901"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'"i_\\u00e9"', "i_é"),
        (b'""', ""),
        (b"null", None),
        (b"12", "12"),
        (b"-123456789012345678901", "-123456789012345678901"),
        (b"12.50", NOT_TEXT + "12.50"),
        (b"1e3", NOT_TEXT + "1e3"),
        (b"true", NOT_TEXT + "true"),
        (b'["a", 1]', NOT_TEXT + '["a", 1]'),
        (b'{"k":1}', NOT_TEXT + '{"k":1}'),
    ],
)
def test_a_property_is_its_text_or_json_that_no_one_takes_for_an_id(value: bytes, text: str | None) -> None:
    page = page_of(b'{"$distinct_id":"a","$properties":{"$apptimize_user_id":%s}}' % value, properties=(ID,))
    assert column(page, ID) == [text]


def test_unusual_ids_come_through_unchanged() -> None:
    ids = ["=1+1", "@sum", "a\x00b", "李雷", "🦊", "x" * 10_000, "", 'quote"', "back\\slash", "\\ud83d"]
    page = page_of(*(msgspec.json.encode({"$distinct_id": one}) for one in ids))
    assert column(page, "distinct_id") == ids


def test_half_an_emoji_in_a_property_is_mended() -> None:
    page = page_of(
        b'{"$distinct_id":"\\\\ud83d \\ud83e\\udd8a","$properties":{"$apptimize_user_id":"\\ud83e\\udd8a \\ude00"}}',
        b'{"$distinct_id":"a","$properties":{"n":"\\uD83D","$apptimize_user_id":["\xff"]}}',
        properties=(ID,),
    )
    assert column(page, "distinct_id") == ["\\ud83d 🦊", "a"]
    assert column(page, ID) == ["🦊 �", NOT_TEXT + '["�"]']


def test_a_property_named_like_a_column_is_refused() -> None:
    with pytest.raises(ValueError, match="two columns that are called page"):
        snapshot_schema(("page",))
