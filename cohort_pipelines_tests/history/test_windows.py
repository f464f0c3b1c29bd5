from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cohort_pipelines.core import clock
from cohort_pipelines.core.disk import encode_path_name
from cohort_pipelines.core.errors import ExportNameInvalid, WindowClosed, WindowNotOpenYet
from cohort_pipelines.core.windows import Cadence, Window, one_time_window

moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.timezones())  # noqa: DTZ001  hypothesis adds them
cadences = st.sampled_from(Cadence)


@pytest.mark.parametrize(
    ("cadence", "moment", "key"),
    [
        (Cadence.QUARTER_HOUR, datetime(2026, 11, 22, 12, 15, tzinfo=UTC), "2026-11-22T1215Z"),
        (Cadence.QUARTER_HOUR, datetime(2026, 11, 22, 12, 29, 59, 999_999, tzinfo=UTC), "2026-11-22T1215Z"),
        (Cadence.TWO_HOURS, datetime(2026, 11, 22, 23, 59, tzinfo=UTC), "2026-11-22T2200Z"),
        (Cadence.TWO_HOURS, datetime(2026, 11, 22, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2026-11-21T2200Z"),
    ],
)
def test_a_window_is_named_by_its_start_in_utc(cadence: Cadence, moment: datetime, key: str) -> None:
    assert cadence.window_at(moment).key == key


@settings(deadline=None)
@given(cadence=cadences, moment=moments)
@example(Cadence.TWO_HOURS, datetime(2026, 10, 25, 0, 59, tzinfo=UTC))  # clocks go back in Europe
@example(Cadence.QUARTER_HOUR, datetime(2026, 3, 29, 1, 0, tzinfo=UTC))  # and forward
def test_every_moment_has_one_window_that_its_name_leads_back_to(cadence: Cadence, moment: datetime) -> None:
    window = cadence.window_at(moment)

    assert window.opens is not None
    assert window.closes is not None
    assert window.opens <= moment < window.closes
    assert window.closes - window.opens == cadence.value
    assert cadence.window_named(window.key) == window
    assert cadence.window_at(window.closes).opens == window.closes


@pytest.mark.parametrize("key", ["2026-11-22T1216Z", "2026-11-22T12:15Z", "2026-11-22", "", "spring sale"])
def test_a_key_that_starts_no_window_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"not the start|does not match"):
        Cadence.QUARTER_HOUR.window_named(key)


def test_a_quarter_hour_is_no_window_of_two_hours() -> None:
    with pytest.raises(ValueError, match="not the start"):
        Cadence.TWO_HOURS.window_named("2026-11-22T1215Z")


def test_crons_fire_when_windows_open() -> None:
    assert [cadence.cron for cadence in Cadence] == ["0 */2 * * *", "*/15 * * * *"]


@pytest.mark.parametrize("cadence", Cadence)
def test_a_snapshot_belongs_to_the_window_that_is_open(cadence: Cadence) -> None:
    window = cadence.window_at(clock.now())
    assert window.opens is not None

    with clock.shifted(window.opens - clock.now() + timedelta(seconds=1)):
        window.require_open()
    with clock.shifted(window.opens - clock.now() - timedelta(seconds=1)), pytest.raises(WindowNotOpenYet):
        window.require_open()
    with (
        clock.shifted(window.opens - clock.now() + cadence.value),
        pytest.raises(WindowClosed, match=f"{window.key} closed at"),
    ):
        window.require_open()


def test_a_one_time_export_is_always_open() -> None:
    one_time_window("spring sale").require_open()

    assert one_time_window("spring sale") == Window("spring sale")


@given(name=st.text(min_size=1))
@example("../../etc/passwd")
@example("..")
@example(".hidden")
@example("a/b\\c\0d")
@example("é" * 64)
@example("%2E%2e")
def test_a_path_name_leads_back_and_neither_climbs_nor_hides(name: str) -> None:
    encoded = encode_path_name(name)

    assert unquote(encoded) == name
    assert encoded.isascii()
    assert not set(encoded) & set("/\\\0=:*? ")
    assert not encoded.startswith(".")


@given(one=st.text(min_size=1), other=st.text(min_size=1))
def test_two_names_never_share_a_path(one: str, other: str) -> None:
    assert (encode_path_name(one) == encode_path_name(other)) == (one == other)


@given(name=st.text())
def test_an_export_name_is_refused_or_fits_a_file_name(name: str) -> None:
    try:
        window = one_time_window(name)
    except ExportNameInvalid:
        assert not name.strip() or len(name) > 64 or len(encode_path_name(name)) > 200
    else:
        assert window.key == name
        assert len(f"window={window.path_name}".encode()) <= 255


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "😀" * 20])
def test_a_name_that_cannot_be_kept_is_refused(name: str) -> None:
    with pytest.raises(ExportNameInvalid, match="1 to 64 characters"):
        one_time_window(name)


def test_a_scheduled_key_needs_no_encoding() -> None:
    window = Cadence.QUARTER_HOUR.window_at(datetime(2026, 11, 22, 12, 15, tzinfo=UTC))

    assert window.path_name == window.key
