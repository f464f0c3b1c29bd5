from cohort_pipelines.cli_options import delivered

UPLOAD = {"target": "Beta Users", "users": 1_840, "joiners": 93, "leavers": 97, "requests": 2}


def test_a_delivery_says_who_came_and_went() -> None:
    said = delivered(UPLOAD | {"unsettled": 0})
    assert said == "Delivered to 'Beta Users': 1,840 users, 93 joined, 97 left, 2 requests."


def test_what_is_unsettled_is_said_with_what_to_do_where_no_delivery_follows() -> None:
    said = delivered(UPLOAD | {"unsettled": 12})
    assert "12 users are unsettled" in said
    assert said.endswith("where none is to come, run this again later, until nobody is.")
