import unicodedata
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.identity.mapping import (
    DISTINCT_ID,
    MAX_ID_BYTES,
    PARTNER_ID,
    SPACE,
    Equality,
    IdRule,
    Reason,
    equality_key,
    map_ids,
    split_duplicates,
)

APPTIMIZE = "$apptimize_user_id"
TAPLYTICS = IdRule(exclude_device_ids=True)
ORIGINAL = IdRule(source=APPTIMIZE, prefixes=("i_", "a_"))
SIMPLIFIED = IdRule(exclude_device_ids=True, compare_with=APPTIMIZE)
FILE = IdRule(source=APPTIMIZE, prefixes=("i_", "a_"), strip_prefix="i_")


def outcome(rule: IdRule, distinct_id: str, apptimize_id: str | None = None) -> tuple[str | None, str | None]:
    """Return the partner id and the reason that one member ends with."""
    members = pa.table(
        {DISTINCT_ID: pa.array([distinct_id], pa.string()), APPTIMIZE: pa.array([apptimize_id], pa.string())}
    )
    mapped = map_ids(members, rule)
    (row,) = mapped.candidates.to_pylist() + mapped.excluded.to_pylist()
    assert row[DISTINCT_ID] == distinct_id
    return row[PARTNER_ID], row.get("reason")


@pytest.mark.parametrize(
    "distinct_id", ["user-1", "my$device:x", "é", "=1+1", "+1", "@x", "-1", "a b", "a,b", 'q"q', "😀"]
)
def test_taplytics_takes_the_distinct_id_as_it_is(distinct_id: str) -> None:
    assert outcome(TAPLYTICS, distinct_id) == (distinct_id, None)


def test_taplytics_takes_no_device_for_a_user() -> None:
    assert outcome(TAPLYTICS, "$device:abc") == ("$device:abc", Reason.DEVICE_ID)


@pytest.mark.parametrize(
    ("apptimize_id", "expected"),
    [
        ("i_1", ("i_1", None)),
        ("a_1", ("a_1", None)),
        ("i_é", ("i_é", None)),
        ("i_ ", ("i_ ", Reason.SURROUNDING_SPACE)),
        ("i_ 1", ("i_ 1", None)),
        ("i_i_", ("i_i_", None)),
        (None, (None, Reason.NO_PARTNER_ID)),
        ("", ("", Reason.NO_PARTNER_ID)),
        ("1", ("1", Reason.MALFORMED_PARTNER_ID)),
        ("i_", ("i_", Reason.MALFORMED_PARTNER_ID)),
        ("a_", ("a_", Reason.MALFORMED_PARTNER_ID)),
        ("I_1", ("I_1", Reason.MALFORMED_PARTNER_ID)),
        (" i_1", (" i_1", Reason.MALFORMED_PARTNER_ID)),
        ("x\ni_1", ("x\ni_1", Reason.MALFORMED_PARTNER_ID)),
        ('["i_1"]', ('["i_1"]', Reason.MALFORMED_PARTNER_ID)),
        ("i_\n", ("i_\n", Reason.INVALID_TEXT)),
        ("i_\ufffd", ("i_\ufffd", Reason.INVALID_TEXT)),
        ("i_" + "x" * 1023, ("i_" + "x" * 1023, Reason.INVALID_TEXT)),
    ],
)
def test_original_id_merge_takes_the_prefixed_property(
    apptimize_id: str | None, expected: tuple[str | None, str | None]
) -> None:
    assert outcome(ORIGINAL, "anything", apptimize_id) == expected


@pytest.mark.parametrize(
    ("distinct_id", "expected"),
    [
        ("user-1", ("user-1", None)),
        ("$device:1", ("$device:1", Reason.DEVICE_ID)),
        ("$device:", ("$device:", Reason.DEVICE_ID)),
        ("$devices", ("$devices", None)),
        ("my$device:1", ("my$device:1", None)),
    ],
)
def test_simplified_id_merge_takes_the_user_id(distinct_id: str, expected: tuple[str | None, str | None]) -> None:
    assert outcome(SIMPLIFIED, distinct_id) == expected


@pytest.mark.parametrize(
    ("apptimize_id", "expected"),
    [
        ("i_1", ("1", None)),
        ("i_i_1", ("i_1", None)),
        ("i_é", ("é", None)),
        ("i_ 1", ("i_ 1", Reason.SURROUNDING_SPACE)),
        ("a_1", ("a_1", Reason.NO_PARTNER_ID)),
        ("i_", ("i_", Reason.MALFORMED_PARTNER_ID)),
        ("1", ("1", Reason.MALFORMED_PARTNER_ID)),
        (None, (None, Reason.NO_PARTNER_ID)),
        ("i_" + "x" * MAX_ID_BYTES, ("x" * MAX_ID_BYTES, None)),
    ],
)
def test_a_file_import_takes_the_id_without_its_prefix(
    apptimize_id: str | None, expected: tuple[str | None, str | None]
) -> None:
    assert outcome(FILE, "anything", apptimize_id) == expected


@pytest.mark.parametrize(
    "rule",
    [
        IdRule(source=APPTIMIZE),
        ORIGINAL,
        FILE,
        IdRule(source=APPTIMIZE, strip_prefix="i_"),
        IdRule(source=APPTIMIZE, exclude_device_ids=True, equality="casefold"),
    ],
)
@pytest.mark.parametrize("json", ['["x"]', '{"i_": 1}', "true", "1.5"])
def test_a_property_that_is_no_string_and_no_integer_is_malformed_by_every_rule(rule: IdRule, json: str) -> None:
    assert outcome(rule, "anything", NOT_TEXT + json) == (NOT_TEXT + json, Reason.MALFORMED_PARTNER_ID)


def test_a_prefix_alone_is_no_id_even_where_none_is_required() -> None:
    assert outcome(IdRule(strip_prefix="i_"), "i_") == ("i_", Reason.NO_PARTNER_ID)


def test_a_prefix_is_text_and_no_pattern() -> None:
    rule = IdRule(prefixes=("a.b|(", "é"))

    assert outcome(rule, "a.b|(1") == ("a.b|(1", None)
    assert outcome(rule, "éx") == ("éx", None)
    assert outcome(rule, "axb|(1") == ("axb|(1", Reason.MALFORMED_PARTNER_ID)


@pytest.mark.parametrize("bad", ["a\0", "a\nb", "\r", "\t", "\x1f", "\x7f", "x" * 10_000, "é" * 513])
def test_text_that_no_receiver_takes_is_excluded(bad: str) -> None:
    assert outcome(TAPLYTICS, bad) == (bad, Reason.INVALID_TEXT)


@pytest.mark.parametrize(
    "good",
    [
        "x" * MAX_ID_BYTES,
        "é" * 512,
        "\x80",
        "a\u2028b",
        "a\ufeffb",
        "a b",
        "\u200ba\u200b",
        "a\u200d",
        "\u180ea",
        "\u2060",
    ],
)
def test_all_other_text_is_an_id(good: str) -> None:
    assert outcome(TAPLYTICS, good) == (good, None)


# what Python's str.strip, JavaScript's String.trim and Go's strings.TrimSpace take off, but for control characters
TRIMMED = [*map(chr, range(0x2000, 0x200B)), *"\x20\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"]


@pytest.mark.parametrize("space", [*TRIMMED, " \u3000\ufeff"])
def test_an_id_with_white_space_at_an_end_is_excluded_by_every_rule(space: str) -> None:
    for bad in (f"a{space}", f"{space}a", space, f"{space}a b{space}"):
        assert outcome(TAPLYTICS, bad) == (bad, Reason.SURROUNDING_SPACE)
        assert outcome(IdRule(source=APPTIMIZE, equality="nfc"), "x", bad) == (bad, Reason.SURROUNDING_SPACE)
    assert outcome(ORIGINAL, "x", f"i_1{space}") == (f"i_1{space}", Reason.SURROUNDING_SPACE)
    assert outcome(FILE, "x", f"i_{space}1") == (f"i_{space}1", Reason.SURROUNDING_SPACE)
    assert outcome(TAPLYTICS, f"a{space}b") == (f"a{space}b", None)


def test_all_that_some_receiver_trims_is_white_space() -> None:
    stripped = {letter for letter in map(chr, range(0x110000)) if letter.isspace()}

    assert set(SPACE) == stripped | {"\ufeff"}
    assert {letter for letter in SPACE if letter > "\x1f"} == set(TRIMMED)


def test_differing_ids_are_counted_where_both_are_there() -> None:
    members = pa.table(
        {
            DISTINCT_ID: ["same", "other", "none", "$device:1"],
            APPTIMIZE: pa.array(["same", "i_other", None, "x"], pa.string()),
        }
    )

    mapped = map_ids(members, SIMPLIFIED)

    assert mapped.differing == 1
    assert mapped.candidates[PARTNER_ID].to_pylist() == ["same", "other", "none"]


def test_no_members_are_no_candidates() -> None:
    members = pa.table({DISTINCT_ID: pa.array([], pa.string()), APPTIMIZE: pa.array([], pa.string())})

    for rule in (TAPLYTICS, ORIGINAL, SIMPLIFIED, FILE, IdRule(equality="casefold"), IdRule(equality="nfc")):
        mapped = map_ids(members, rule)
        assert (mapped.candidates.num_rows, mapped.excluded.num_rows, mapped.differing) == (0, 0, 0)


@pytest.mark.parametrize(
    ("rule", "properties"),
    [
        (TAPLYTICS, ()),
        (ORIGINAL, (APPTIMIZE,)),
        (SIMPLIFIED, (APPTIMIZE,)),
        (IdRule(source="a", compare_with="b"), ("a", "b")),
        (IdRule(source="a", compare_with="a"), ("a",)),
        (IdRule(source="a", compare_with=DISTINCT_ID), ("a",)),
    ],
)
def test_a_rule_names_the_properties_that_it_reads(rule: IdRule, properties: tuple[str, ...]) -> None:
    assert rule.properties == properties


@given(ids=st.lists(st.text()))
def test_casefold_is_python_s(ids: list[str]) -> None:
    assert equality_key(pa.array(ids, pa.string()), "casefold").to_pylist() == [text.casefold() for text in ids]


@pytest.mark.parametrize("text", ["e\u0301", "\u212b", "\uac00", "plain"])
def test_nfc_is_that_of_unicode(text: str) -> None:
    assert equality_key(pa.array([text]), "nfc").to_pylist() == [unicodedata.normalize("NFC", text)]


@given(
    keys=st.lists(st.sampled_from("abcdef")).map(sorted),
    cuts=st.lists(st.integers(0, 20)),
    equality=st.sampled_from(["exact", "casefold"]),
)
def test_of_equal_ids_the_first_stays_however_the_stream_is_cut(
    keys: list[str], cuts: list[int], equality: Equality
) -> None:
    columns = {DISTINCT_ID: [f"{n:03}" for n in range(len(keys))], PARTNER_ID: keys}
    if equality != "exact":
        columns["equality_key"] = keys
    table = pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))
    kept: list[str] = []
    surplus: list[str] = []
    last_key = None
    edges = [0, *sorted(min(cut, len(keys)) for cut in cuts), len(keys)]
    for start, end in pairwise(edges):
        stays, goes, last_key = split_duplicates(table.slice(start, end - start), last_key)
        kept += stays[PARTNER_ID].to_pylist()
        surplus += goes[DISTINCT_ID].to_pylist()
        assert set(goes["reason"].to_pylist()) <= {Reason.DUPLICATE_PARTNER_ID.value}

    assert kept == sorted(set(keys))
    assert surplus == [f"{n:03}" for n in range(1, len(keys)) if keys[n] == keys[n - 1]]
