from io import StringIO

import pytest
from rich.table import Table
from rich.text import Text

from cohort_pipelines.cli.options import PlainTextConsole, delivered

UPLOAD = {"target": "Beta Users", "users": 1_840, "joiners": 93, "leavers": 97, "requests": 2}


def test_a_delivery_says_who_came_and_went() -> None:
    said = delivered(UPLOAD | {"in_doubt": 0})
    assert said == "Delivered to 'Beta Users': 1,840 users, 93 joined, 97 left, 2 requests."


def test_what_is_in_doubt_is_said_with_what_to_do_where_no_delivery_follows() -> None:
    said = delivered(UPLOAD | {"in_doubt": 12})
    assert "12 users are in doubt" in said
    assert said.endswith("where none is to come, run this again later, until nobody is.")


@pytest.mark.parametrize("in_a_table", [False, True])
def test_no_control_character_of_a_name_reaches_the_terminal(*, in_a_table: bool) -> None:
    said = Text("Beta\x1b[2J\x9b2J \u202eUsers", style="red")
    table = Table(box=None, min_width=40)
    table.add_row(said)
    screen = StringIO()

    PlainTextConsole(file=screen, force_terminal=True, color_system="standard", width=80).print(
        table if in_a_table else said
    )

    assert "\x1b[31mBeta\ufffd[2J\ufffd2J \ufffdUsers" in screen.getvalue()
