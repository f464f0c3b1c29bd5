from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohort_pipelines.core.engine import BATCH
from cohort_pipelines.core.errors import HistoryError, InitialMembersUnusable
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import Equality
from cohort_pipelines.membership.initial_members import adopt
from cohort_pipelines.membership.state import MEMBERSHIP_SCHEMA, Membership
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.memberships import payload_of, planned, read, read_refused


def adopted(history: History, path: Path, equality: Equality = "exact", *, has_header: bool = True) -> list[str]:
    terms = Terms(initial_members=str(path), initial_members_have_header=has_header, id_equality=equality)
    membership = adopt(history, terms, sync="s", window="w")
    rows = read(history, membership)
    assert {row[1:] for row in rows} == {("IN", None)}
    assert read_refused(history, membership) == set()
    assert (membership.held, membership.in_doubt) == (len(rows), 0)
    assert membership.file is not None
    assert (membership.file.stage, membership.file.sync, membership.file.window) == (Stage.MEMBERSHIP, "s", "w")
    assert all(batch.schema == MEMBERSHIP_SCHEMA for batch in history.batches(membership.file))
    return [row[0] for row in rows]


def problem_of(history: History, path: Path, *, has_header: bool = True) -> str:
    with pytest.raises(
        InitialMembersUnusable, match=r"^The baseline .* cannot be adopted: .* Nothing was sent"
    ) as caught:
        adopt(history, Terms(initial_members=str(path), initial_members_have_header=has_header), sync="s", window="w")
    assert caught.value.__cause__ is None
    assert history.versions("s", Stage.MEMBERSHIP, "w") == []
    return str(caught.value).split("cannot be adopted: ")[1].split(". Nothing was sent")[0]


@pytest.mark.parametrize(
    "text",
    [
        "user_id\nb\na\n",
        "\n\nid\na\nb\n",
        "\ufeffuser_id\na\nb\n",
        "name,partner_user_id,id\nx,a,1\ny,b,2\n",
        "id,user_id\n1,a\n2,b\n",
        "distinct_id\na\nb\n",
        "$distinct_id\na\nb\n",
        "userId\na\nb\n",
        "User ID\na\nb\n",
        "ID\na\nb\n",
        ' USER-ID ,"note;\tof ours"\na,1\nb,2\n',
    ],
)
def test_the_header_of_a_csv_file_names_the_ids_in_any_spelling(
    tmp_history: History, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert adopted(tmp_history, path) == ["a", "b"]


@pytest.mark.parametrize("text", ["b\na\n", "b\r\na", "\n\nb\na\na\n\n", "\ufeffa\nb\n", '"a"\n"b"\n'])
def test_a_csv_file_that_is_said_to_have_no_header_is_adopted_whole(
    tmp_history: History, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert problem_of(tmp_history, path) == "no column of it is named as one of user ids"
    assert adopted(tmp_history, path, has_header=False) == ["a", "b"]


@pytest.mark.parametrize("text", ["distinct_id\na\n", "userId\na\n", "User ID\na\n", "ID\na\n"])
def test_a_header_is_no_user_where_none_was_said_to_be_there(tmp_history: History, tmp_path: Path, text: str) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(text, encoding="utf-8")
    refused = problem_of(tmp_history, path, has_header=False)
    assert refused == "its first row is a header, and `initial_members_have_header: false` is declared"


@pytest.mark.parametrize(
    ("text", "has_header"),
    [
        ("user_id;email\nu1;a@x\n", True),
        ("user_id\temail\nu1\ta@x\n", True),
        ("u1;a@x\nu2;b@x\n", True),
        ("user_id;email\nu1;a@x\n", False),
    ],
)
def test_columns_that_no_comma_separates_are_refused(
    tmp_history: History, tmp_path: Path, text: str, *, has_header: bool
) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(text, encoding="utf-8")
    refused = problem_of(tmp_history, path, has_header=has_header)
    assert refused == "a semicolon or a tab separates the columns of its first row, not a comma"


def test_an_id_may_hold_a_semicolon(tmp_history: History, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("a;b\nc\n", encoding="utf-8")
    assert adopted(tmp_history, path, has_header=False) == ["a;b", "c"]


@pytest.mark.parametrize("cell", [" a", "a ", "\u00a0a", "a\u3000", '"a\u2028"', "\ufeffa", ' "a"'])
def test_an_id_with_something_left_around_it_is_refused(tmp_history: History, tmp_path: Path, cell: str) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(f"user_id\nb\n{cell}\n", encoding="utf-8")
    refused = problem_of(tmp_history, path)
    assert refused == "what its row 2 holds has white space at an end, or a byte order mark"


def test_ids_of_a_csv_file_are_taken_byte_for_byte(tmp_history: History, tmp_path: Path) -> None:
    ids = [
        "=1+1",
        "@x",
        "NA",
        "null",
        "1.0",
        "007",
        'q"q',
        "a,b",
        "é",
        "e\u0301",
        "😀",
        "a\u2028b",
        "x" * 1024,
    ]
    path = tmp_path / "ids.csv"
    path.write_text(
        "".join('"' + each.replace('"', '""') + '"\n' for each in ["user_id", *ids]), encoding="utf-8", newline=""
    )
    assert adopted(tmp_history, path) == sorted(ids, key=str.encode)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["b", "a", "a"]), ["a", "b"]),
        (pa.array(["b", "a", "a"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a", "a"]).dictionary_encode(), ["a", "b"]),
        (pa.array([20, 3, 3]), ["20", "3"]),
    ],
)
@pytest.mark.parametrize("named", ["User ID", "anything"])
def test_a_parquet_file_of_text_or_integers_is_adopted(
    tmp_history: History, tmp_path: Path, column: pa.Array, expected: list[str], named: str
) -> None:
    path = tmp_path / "ids"
    columns = {named: column} | ({"other": pa.array([1.5, 2.5, None])} if named == "User ID" else {})
    pq.write_table(pa.table(columns), path)
    assert adopted(tmp_history, path, has_header=named == "User ID") == expected


@pytest.mark.parametrize(
    ("equality", "expected"),
    [
        ("exact", ["STRASSE", "Straße", "e\u0301", "é"]),
        ("casefold", ["STRASSE", "e\u0301", "é"]),
        ("nfc", ["STRASSE", "Straße", "e\u0301"]),
    ],
)
def test_spellings_of_one_id_are_adopted_as_one(
    tmp_history: History, tmp_path: Path, equality: Equality, expected: list[str]
) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("id\né\nStraße\nSTRASSE\ne\u0301\n", encoding="utf-8")
    assert adopted(tmp_history, path, equality) == sorted(expected, key=str.encode)


def test_who_is_adopted_and_not_in_the_payload_leaves(tmp_history: History, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("id\nstays\nleaves\n", encoding="utf-8")
    membership = adopt(tmp_history, Terms(initial_members=str(path)), sync="s", window="w")
    assert planned(tmp_history, payload_of(tmp_history, "joins", "stays"), membership) == [
        ("add", "joins", False, "change"),
        ("remove", "leaves", False, "change"),
    ]


def test_a_file_of_several_batches_is_adopted(tmp_history: History, tmp_path: Path) -> None:
    path, rows = tmp_path / "ids.csv", 2 * BATCH + 7
    path.write_text("id\n" + "".join(f"{number % (rows - 1):09}\n" for number in range(rows)), encoding="utf-8")
    assert adopt(tmp_history, Terms(initial_members=str(path)), sync="s", window="w").held == rows - 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it holds no id"),
        (b"\n\n", "it holds no id"),
        (b"user_id\n", "it holds no id"),
        (b"a,b\nc,d\n", "no column of it is named as one of user ids"),
        (b"user_id,x\na,b\nc\n", "its row 2 has 1 columns in place of 2"),
        (b"id\nsecret-1\nsecret-2,x\n", "its row 2 has 2 columns in place of 1"),
        (b"id\na\n\xff\n", "it is not in UTF-8"),
        (b"id\n" + b"a\n" * 100_000 + b"\xff\n", "it is not in UTF-8"),
        (b'id\na\n"b\n', "it is damaged, or another kind of file"),
        (b"a" * 200_000, "it is damaged, or another kind of file"),
        (b"PAR1 and then something else", "it is damaged, or another kind of file"),
        (b'id\na\n""\n', "what its row 2 holds cannot be a user id"),
        (b"user_id\na\nb\x00\n", "what its row 2 holds cannot be a user id"),
        (b'id\n"a\nb"\n', "what its row 1 holds cannot be a user id"),
        (b"id\n" + b"a\n" + b"x" * 1025 + b"\n", "what its row 2 holds cannot be a user id"),
        (f"id\na\n{NOT_TEXT}[1]\n".encode(), "what its row 2 holds cannot be a user id"),
        ("id\na\nb\ufffd\n".encode(), "what its row 2 holds cannot be a user id"),
        (b"id\n" + b"a\n" * BATCH + b"\x7f\n", f"what its row {BATCH + 1:,} holds cannot be a user id"),
    ],
)
def test_any_other_file_is_refused_with_the_reason_and_no_id(
    tmp_history: History, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(content)
    assert problem_of(tmp_history, path) == problem


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (pa.table({"user_id": pa.array([], pa.string())}), "it holds no id"),
        (pa.table({"user_id": ["a", None]}), "what its row 2 holds cannot be a user id"),
        (pa.table({"user_id": [1.5]}), "its ids are neither text nor integers"),
        (pa.table({"user_id": [Decimal(1)]}), "its ids are neither text nor integers"),
        (pa.table({"user_id": [["a"]]}), "its ids are neither text nor integers"),
        (pa.table({"a": ["x"], "b": ["y"]}), "no column of it is named as one of user ids"),
        (pa.table({}), "no column of it is named as one of user ids"),
        (
            pa.table({"id": pa.array([b"a", b"\xff"]).cast(pa.string(), safe=False)}),
            "it is damaged, or another kind of file",
        ),
    ],
)
def test_any_other_parquet_file_is_refused_likewise(
    tmp_history: History, tmp_path: Path, table: pa.Table, problem: str
) -> None:
    path = tmp_path / "ids.parquet"
    pq.write_table(table, path)
    assert problem_of(tmp_history, path) == problem


def test_a_file_that_is_not_there_is_named(tmp_history: History, tmp_path: Path) -> None:
    assert problem_of(tmp_history, tmp_path / "nowhere.csv") == "No such file or directory"
    assert problem_of(tmp_history, tmp_path) == "Is a directory"
    assert issubclass(InitialMembersUnusable, HistoryError)


def test_nothing_is_left_in_scratch_space(tmp_history: History, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("id\na\n", encoding="utf-8")
    assert adopt(tmp_history, Terms(initial_members=str(path)), sync="s", window="w") != Membership()
    assert list((Path(tmp_history.root) / ".scratch").iterdir()) == []
