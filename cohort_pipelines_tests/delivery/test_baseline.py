from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohort_pipelines.delivery.baseline import adopt
from cohort_pipelines.delivery.belief import BATCH, BELIEF_SCHEMA, Belief
from cohort_pipelines.errors import BaselineUnusable, HistoryError
from cohort_pipelines.history import History, Stage
from cohort_pipelines.identity import NOT_TEXT, Equality
from cohort_pipelines_tests.delivery.beliefs import payload_of, planned, read, read_refused


def adopted(history: History, path: Path, equality: Equality = "exact") -> list[str]:
    belief = adopt(history, str(path), sync="s", window="w", equality=equality)
    rows = read(history, belief)
    assert {row[1:] for row in rows} == {("IN", None)}
    assert read_refused(history, belief) == set()
    assert (belief.held, belief.unsettled) == (len(rows), 0)
    assert belief.file is not None
    assert (belief.file.stage, belief.file.sync, belief.file.window) == (Stage.BELIEF, "s", "w")
    assert all(batch.schema == BELIEF_SCHEMA for batch in history.batches(belief.file))
    return [row[0] for row in rows]


def problem_of(history: History, path: Path) -> str:
    with pytest.raises(BaselineUnusable, match=r"^The baseline .* cannot be adopted: .* Nothing was sent") as caught:
        adopt(history, str(path), sync="s", window="w")
    assert caught.value.__cause__ is None
    assert history.versions("s", Stage.BELIEF, "w") == []
    return str(caught.value).split("cannot be adopted: ")[1].split(". Nothing was sent")[0]


@pytest.mark.parametrize(
    "text",
    [
        "b\na\n",
        "b\r\na",
        "\n\nb\na\na\n\n",
        "user_id\nb\na\n",
        "\n\nid\na\nb\n",
        "\ufeffuser_id\na\nb\n",
        "\ufeffa\nb\n",
        '"a"\n"b"\n',
        "name,partner_user_id,id\nx,a,1\ny,b,2\n",
        "id,user_id\n1,a\n2,b\n",
    ],
)
def test_a_csv_file_of_ids_is_adopted_with_or_without_a_header(tmp_history: History, tmp_path: Path, text: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert adopted(tmp_history, path) == ["a", "b"]


def test_ids_of_a_csv_file_are_taken_byte_for_byte(tmp_history: History, tmp_path: Path) -> None:
    ids = [
        " padded ",
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
        "\u2028",
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
@pytest.mark.parametrize("named", ["user_id", "anything"])
def test_a_parquet_file_of_text_or_integers_is_adopted(
    tmp_history: History, tmp_path: Path, column: pa.Array, expected: list[str], named: str
) -> None:
    path = tmp_path / "ids"
    columns = {named: column} | ({"other": pa.array([1.5, 2.5, None])} if named == "user_id" else {})
    pq.write_table(pa.table(columns), path)
    assert adopted(tmp_history, path) == expected


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
    path.write_text("é\nStraße\nSTRASSE\ne\u0301\n", encoding="utf-8")
    assert adopted(tmp_history, path, equality) == sorted(expected, key=str.encode)


def test_who_is_adopted_and_not_in_the_payload_leaves(tmp_history: History, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("stays\nleaves\n", encoding="utf-8")
    belief = adopt(tmp_history, str(path), sync="s", window="w")
    assert planned(tmp_history, payload_of(tmp_history, "joins", "stays"), belief) == [
        ("add", "joins", False, "change"),
        ("remove", "leaves", False, "change"),
    ]


def test_a_file_of_several_batches_is_adopted(tmp_history: History, tmp_path: Path) -> None:
    path, rows = tmp_path / "ids.csv", 2 * BATCH + 7
    path.write_text("".join(f"{number % (rows - 1):09}\n" for number in range(rows)), encoding="utf-8")
    assert adopt(tmp_history, str(path), sync="s", window="w").held == rows - 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it holds no id"),
        (b"\n\n", "it holds no id"),
        (b"user_id\n", "it holds no id"),
        (b"a,b\nc,d\n", "it has 2 columns, and none of them is named as one of user ids"),
        (b"user_id,x\na,b\nc\n", "its row 2 has 1 columns in place of 2"),
        (b"secret-1\nsecret-2,x\n", "its row 2 has 2 columns in place of 1"),
        (b"a\n\xff\n", "it is not in UTF-8"),
        (b"a\n" * 100_000 + b"\xff\n", "it is not in UTF-8"),
        (b'a\n"b\n', "it is damaged, or another kind of file"),
        (b"a" * 200_000, "it is damaged, or another kind of file"),
        (b"PAR1 and then something else", "it is damaged, or another kind of file"),
        (b'a\n""\n', "what its row 2 holds cannot be a user id"),
        (b"user_id\na\nb\x00\n", "what its row 2 holds cannot be a user id"),
        (b'"a\nb"\n', "what its row 1 holds cannot be a user id"),
        (b"a\n" + b"x" * 1025 + b"\n", "what its row 2 holds cannot be a user id"),
        (f"a\n{NOT_TEXT}[1]\n".encode(), "what its row 2 holds cannot be a user id"),
        ("a\nb\ufffd\n".encode(), "what its row 2 holds cannot be a user id"),
        (b"a\n" * BATCH + b"\x7f\n", "what its row 65,537 holds cannot be a user id"),
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
        (pa.table({"a": ["x"], "b": ["y"]}), "it has 2 columns, and none of them is named as one of user ids"),
        (pa.table({}), "it has 0 columns, and none of them is named as one of user ids"),
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
    assert issubclass(BaselineUnusable, HistoryError)


def test_nothing_is_left_in_scratch_space(tmp_history: History, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("a\n", encoding="utf-8")
    assert adopt(tmp_history, str(path), sync="s", window="w") != Belief()
    assert list((Path(tmp_history.root) / ".scratch").iterdir()) == []
