"""Times shown while a sweep runs."""

import pytest

from lenet_pl.sweeps.progress import duration, seconds_per_job


def test_seconds_per_job_leave_out_what_precedes_the_first_job() -> None:
    assert seconds_per_job([110.0], 100.0, parallel=False) == 10
    assert seconds_per_job([112.0, 110.0, 113.0], 100.0, parallel=False) == 1.5
    assert seconds_per_job([110.0, 110.2, 109.8], 101.2, parallel=True) == pytest.approx(3)


def test_durations_have_a_fitting_unit() -> None:
    assert [duration(s) for s in (40, 720, 11100)] == ["40 s", "12 min", "3 h 05 min"]
