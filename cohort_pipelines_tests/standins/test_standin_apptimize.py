import json
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.server import InThread

GROUP = "Mixpanel: Beta Users"


def message(action: str, ids: list[str], *, page: Any = 1, pages: Any = 1, session: str = "s") -> dict[str, Any]:  # noqa: ANN401  numbers or text
    return {
        "action": action,
        "parameters": {
            "mixpanel_project_id": "2529987",
            "mixpanel_cohort_id": "1478097",
            "mixpanel_cohort_name": GROUP,
            "mixpanel_session_id": session,
            "page_info": {"total_pages": pages, "page_count": page},
            "members": [{"mixpanel_distinct_id": one} for one in ids],
        },
    }


def tell(client: httpx.Client, action: str, ids: list[str], **more: Any) -> None:  # noqa: ANN401  page, pages, session
    answer = client.post("/cohorts", json=message(action, ids, **more))
    assert (answer.status_code, answer.json()) == (200, {"action": action, "status": "success"})


def ids(client: httpx.Client, group: str = GROUP) -> list[str]:
    lines = client.get("/standin/state", params={"group": group}).text.splitlines()
    return [json.loads(line) for line in lines]


def test_members_add_and_differences_change(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", ["i_1", "i_2"])
    tell(apptimize, "members", ["i_3"])
    tell(apptimize, "add_members", ["i_3", "i_4"])
    tell(apptimize, "remove_members", ["i_1", "i_9"])
    assert ids(apptimize) == ["i_2", "i_3", "i_4"]
    assert apptimize.get("/standin/state").json() == {"groups": {GROUP: 3}, "pending": 0}


def test_an_empty_page_makes_the_group(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", [])
    assert apptimize.get("/standin/state").json() == {"groups": {GROUP: 0}, "pending": 0}


def test_members_can_replace_once_the_session_is_complete(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", ["i_1", "i_2"])
    assert apptimize.post("/standin/behaviour", json={"members": "replace"}).status_code == 200
    tell(apptimize, "members", ["i_2"], page=1, pages="2", session="t")
    tell(apptimize, "members", ["i_8"], page=1, pages=2, session="abandoned")
    assert ids(apptimize) == ["i_1", "i_2"]
    tell(apptimize, "members", ["i_3"], page="2", pages=2, session="t")
    assert ids(apptimize) == ["i_2", "i_3"]


def test_a_receiver_can_tell_groups_by_the_id_of_their_cohort(apptimize: httpx.Client) -> None:
    assert apptimize.post("/standin/behaviour", json={"known_by": "cohort_id"}).status_code == 200
    tell(apptimize, "members", ["i_1"])
    assert ids(apptimize, "1478097") == ["i_1"]
    assert ids(apptimize) == []


def test_a_group_that_is_deleted_by_hand_is_unknown(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", ["i_1", "i_2"])
    for users in (2, 0):
        assert apptimize.delete("/standin/groups", params={"name": GROUP}).json() == {"users": users}
    assert apptimize.post("/cohorts", json=message("add_members", ["i_3"])).status_code == 404


def test_page_info_may_be_absent(apptimize: httpx.Client) -> None:
    without = message("members", ["i_1"])
    del without["parameters"]["page_info"]
    assert apptimize.post("/cohorts", json=without).status_code == 200
    assert ids(apptimize) == ["i_1"]


def test_a_difference_for_an_unknown_group_fails(apptimize: httpx.Client) -> None:
    answer = apptimize.post("/cohorts", json=message("add_members", ["i_1"]))
    assert answer.status_code == 404
    assert answer.json() == {
        "action": "add_members",
        "status": "failure",
        "error": {"message": "The cohort is unknown", "code": 404},
    }
    assert apptimize.get("/standin/state").json() == {"groups": {}, "pending": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        message("members", ["i_1"] * 1001),
        message("members", ["x" * 1025]),
        message("members", ["é" * 513]),
        message("members", [""]),
        message("members", ["i_1"], page=0),
        message("members", ["i_1"], page=3, pages=2),
        message("members", ["i_1"], page="one"),
        message("replace", ["i_1"]),
        {"action": "members"},
        [],
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_whole(apptimize: httpx.Client, wrong: Any) -> None:  # noqa: ANN401
    answer = apptimize.post("/cohorts", json=wrong)
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]["code"]) == (400, "failure", 400)
    assert apptimize.get("/standin/state").json() == {"groups": {}, "pending": 0}


def test_the_largest_message_is_taken(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", [f"i_{number}".ljust(1024, "x") for number in range(1000)])
    assert len(ids(apptimize)) == 1000


def test_the_token_is_checked(addresses: InThread) -> None:
    for headers in ({}, {"ApptimizeApiToken": "wrong"}):
        answer = httpx.post(addresses.apptimize_url, json=message("members", []), headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (401, "failure")


def test_messages_are_remembered(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", ["i_2", "i_1"])
    tell(apptimize, "remove_members", ["i_1"])
    assert apptimize.get("/standin/messages").json() == [
        ["members", GROUP, ["i_2", "i_1"]],
        ["remove_members", GROUP, ["i_1"]],
    ]
    assert apptimize.delete("/standin/messages").json() == []


def upload(client: httpx.Client, content: bytes) -> httpx.Response:
    return client.post("/groups/import", params={"name": "By hand"}, content=content)


def test_a_file_of_one_column_replaces_a_group(apptimize: httpx.Client) -> None:
    assert upload(apptimize, b"user_id\nold\n").json() == {"users": 1}
    content = '\ufeffuser_id\r\n"a,b"\r\nZoë\r\n"two\nlines"\r\n'.encode()
    assert upload(apptimize, content).json() == {"users": 3}
    assert ids(apptimize, "By hand") == ["Zoë", "a,b", "two\nlines"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id\n1\n",
        b"user_id,name\n1,Ada\n",
        b"user_id\n1,Ada\n",
        b"user_id\n\n",
        b'user_id\n"1\n',
        b"user_id\n\xff\n",
    ],
)
def test_another_file_is_refused_and_changes_nothing(apptimize: httpx.Client, content: bytes) -> None:
    upload(apptimize, b"user_id\nold\n")
    assert upload(apptimize, content).status_code == 400
    assert ids(apptimize, "By hand") == ["old"]


def test_the_groups_page_has_a_card_for_each(apptimize: httpx.Client) -> None:
    tell(apptimize, "members", ["i_1", "i_2"])
    upload(apptimize, b"user_id\n1\n")
    page = apptimize.get("/", follow_redirects=True).text
    assert f"<h2>{GROUP}</h2>" in page
    assert 'data-users="2"' in page
    assert "Mixpanel cohorts, created" in page
    assert "CSV, created" in page
    assert "Datacenter: EU" in page
