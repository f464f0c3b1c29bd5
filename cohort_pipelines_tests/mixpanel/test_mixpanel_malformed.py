"""One malformed member is a row of the snapshot, excluded and counted; the others are delivered."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cohort_pipelines.core.http import NO_JSON
from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.core.windows import Window
from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import IdRule, Reason
from cohort_pipelines.mixpanel import Project
from cohort_pipelines.mixpanel.pages import Page, page_decoder
from cohort_pipelines.mixpanel.proof import Torn, noting, require_no_repeats
from cohort_pipelines.snapshots import deriving
from cohort_pipelines.snapshots.taking import Snapshot, take_snapshot
from cohort_pipelines_tests.destinations.odd_server import Asked, Raw, odd_server, raw

ID = "$apptimize_user_id"
GOOD = b'{"$distinct_id":"g","$properties":{"$apptimize_user_id":"i_g"}}'
DEEP = b"[" * 2_000 + b"]" * 2_000


def answer(number: int, *results: bytes, total: int | None = None) -> bytes:
    head = b'"page":%d,"page_size":2,"session_id":"S","status":"ok"' % number
    count = len(results) if total is None else total
    return b'{%s,"total":%d,"results":[%s]}' % (head, count, b",".join(results))


def page_of(*results: bytes, number: int = 0, properties: tuple[str, ...] = (), skip: bool = False) -> Page:
    return page_decoder(properties, all_have_profiles=skip)(answer(number, *results))


@pytest.mark.parametrize(
    ("member", "shown"),
    [
        (b'{"$distinct_id":1.5}', '{"$distinct_id":1.5}'),
        (b'{"$distinct_id":null}', '{"$distinct_id":null}'),
        (b'{"$distinct_id":true}', '{"$distinct_id":true}'),
        (b'{"$distinct_id":NaN}', '{"$distinct_id":NaN}'),
        (b'{"$distinct_id":["a"]}', '{"$distinct_id":["a"]}'),
        (b'{"$properties":{"$email":"a@example.com"}}', '{"$properties":{"$email":"a@example.com"}}'),
        (b'{"$distinct_id":"a","$properties":[]}', '"a"'),
        (b'{"$distinct_id":"a","$properties":"x"}', '"a"'),
        (b'{"$distinct_id":"cut \\ud83d"}', '"cut \\ud83d"'),
        (b'{"$distinct_id":"u\xff"}', '"u\\xff"'),
        (b'{"$distinct_id":"a\x01"}', '"a\x01"'),
        (b'{"$distinct_id":"\xef\xbf\xbc1"}', '"\N{OBJECT REPLACEMENT CHARACTER}1"'),
        (b'{"$distinct_id":"a","$properties":{"$apptimize_user_id":NaN}}', '"a"'),
        (b'{"$distinct_id":"a","$properties":{"$apptimize_user_id":%s}}' % DEEP, '"a"'),
        (b'"a"', '"a"'),
        (b"null", "null"),
        (b'{"$distinct_id","a"}', '{"$distinct_id","a"}'),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_malformed_member_is_a_row_that_shows_what_came(member: bytes, shown: str, *, skip: bool) -> None:
    page = page_of(GOOD, member, properties=(ID,), skip=skip)
    assert page.members.to_pylist() == [
        {"distinct_id": "g", "has_profile": True, "page": 0, ID: "i_g"},
        {"distinct_id": NOT_TEXT + shown, "has_profile": False, "page": 0, ID: None},
    ]
    assert (page.malformed, page.anonymous) == (1, 0)


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", DEEP, b'"\\ud83d"', b'"\xff"', b'"\\x"', b'"\x01"', b"1e999"])
def test_a_malformed_property_that_no_mapping_needs_does_no_harm(value: bytes) -> None:
    member = b'{"$distinct_id":"a, \\"]}","$properties":{"n":%s,"$apptimize_user_id":"i_{","[":1}}' % value
    page = page_of(GOOD, member, properties=(ID,))
    assert page.members.to_pylist()[1] == {"distinct_id": 'a, "]}', "has_profile": True, "page": 0, ID: "i_{"}
    assert page.malformed == 0


def test_the_good_members_of_a_malformed_page_are_read_like_those_of_a_sound_one() -> None:
    members = (GOOD, b'{"$distinct_id":4}', b'{ "$properties" : { } , "$distinct_id" : "a" }')
    sound = page_of(*members, properties=(ID,))
    spoilt = page_of(*members, b"null", properties=(ID,))
    assert spoilt.members.slice(0, 3).equals(sound.members)
    assert spoilt.came.slice(0, 3).equals(sound.came)
    assert (spoilt.anonymous, sound.anonymous) == (2, 2)


def test_what_is_shown_of_a_malformed_member_is_bounded() -> None:
    page = page_of(b'{"$properties":{"n":"%s"}}' % (b"x" * 100_000))
    assert len(page.members["distinct_id"][0].as_py()) < 3_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html>",
        b'{"status":"ok","page":0,"page_size":1000,"results":[{"$distinct',
        b'{"status":"ok","page":0,"page_size":1000,"results":[{}]',
        b'{"status":"ok","page":0,"page_size":1000,"results":[{}]}}',
        b'{"status":"ok","page":0,"page_size":1000,"results":{}}',
        b'{"status":"ok","page":NaN,"page_size":1000,"results":[]}',
        b'{"status":"ok","page":0,"page_size":1000,"results":[],"n":%s}' % DEEP,
        b'{"error":"down"}',
        b"[]",
        b"[" * 100_000,
        answer(0, b'{"$distinct_id":"a","$properties":{"n":%s}}' % (b"[" * 2**20 + b"]" * 2**20)),
        b'{"status":"ok","page":0,"page_size":0,"results":[]}',
    ],
)
def test_a_body_that_is_no_page_is_unreadable(body: bytes) -> None:
    with pytest.raises(NO_JSON):
        page_decoder((), all_have_profiles=False)(body)


def test_ids_are_compared_as_they_came(tmp_path: Path) -> None:
    first = page_of(b'{"$distinct_id":4}', b'{"$distinct_id":"a\\ud800"}', b'{"$distinct_id":"u\xff"}', b"{}")
    second = page_of(
        b'{"$distinct_id":"4"}', b'{"$distinct_id":"a\\ud801"}', b'{"$distinct_id":"u\xfe"}', b"{}", number=1
    )
    require_no_repeats(noted(tmp_path, first, second))


@pytest.mark.parametrize("member", [b'{"$distinct_id":4}', b'{"$distinct_id":"a\\ud800"}', b'{"$distinct_id":"u\xff"}'])
def test_a_malformed_or_numeric_id_on_two_pages_is_torn(tmp_path: Path, member: bytes) -> None:
    with pytest.raises(Torn, match="two pages"):
        require_no_repeats(noted(tmp_path, page_of(member), page_of(member, number=1)))


def test_a_member_without_readable_properties_is_compared_by_its_id(tmp_path: Path) -> None:
    spoilt = page_of(b'{"$distinct_id":"a","$properties":[]}', number=1)
    with pytest.raises(Torn, match="two pages"):
        require_no_repeats(noted(tmp_path, page_of(b'{"$distinct_id":"a"}'), spoilt))


def test_the_rest_of_a_cohort_with_malformed_members_is_delivered(history: History, window: Window) -> None:
    pages = [
        answer(0, GOOD, b'{"$distinct_id":"a\\ud800","$properties":{"n":1}}', total=5),
        answer(1, b'{"$distinct_id":4,"$properties":{"n":NaN}}', b'{"$distinct_id":"a\\ud801"}', total=5),
        answer(2, b'{"$distinct_id":"4","$properties":{"n":1}}', total=5),
    ]
    snapshot = taken(history, window, pages)
    assert (snapshot.rows, snapshot.total, snapshot.malformed, snapshot.anonymous) == (5, 5, 2, 0)
    assert (snapshot.queries, snapshot.requests, snapshot.reread) == (1, 3, False)
    identified = deriving.filter_identified(history, snapshot.file)
    assert (identified.identified, identified.malformed) == (3, 2)
    payload = deriving.build_payload(history, snapshot.file, identified.file, IdRule())
    assert column(history, payload.file, "partner_user_id") == ["4", "g"]
    assert {reason: count for reason, count in payload.excluded_by_reason.items() if count} == {
        Reason.MALFORMED_MEMBER: 2,
        Reason.DUPLICATE_PARTNER_ID: 1,
    }
    assert column(history, payload.excluded, "distinct_id") == ["4", NOT_TEXT + '"a\\ud800"', NOT_TEXT + '"a\\ud801"']


def column(history: History, stored: Any, name: str) -> list[Any]:  # noqa: ANN401  a stored file
    return [value for batch in history.batches(stored) for value in batch.column(name).to_pylist()]


def noted(folder: Path, *pages: Page) -> Path:
    path = folder / "places.arrow"
    with noting(path) as note:
        for page in pages:
            note(page)
    return path


def taken(history: History, window: Window, pages: list[bytes]) -> Snapshot:
    async def reply(asked: Asked) -> Raw:
        return raw(200, pages[int(asked.body.rpartition(b"page=")[2])])

    async def scenario() -> Snapshot:
        async with odd_server(reply) as server:
            project = Project(project_id=7, service_account="a", secret="s", api_url=server.url)
            options: dict[str, Any] = {"sync": "beta_users", "window": window, "properties": ()}
            return await asyncio.to_thread(take_snapshot, project, 1, history, **options)

    return asyncio.run(scenario())
