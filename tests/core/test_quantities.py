import math

from qbench.core.quantities import bits_of, bytes_of, joules_of, seconds_of, share_of


def test_shares_and_times_are_the_nearest_numbers() -> None:
    assert share_of("57%") == 0.57
    assert share_of("7 %") == 0.07
    assert seconds_of("9ms") == 0.009
    assert seconds_of("3us") == 0.000003
    assert seconds_of("1.5min") == 90.0
    assert bytes_of("6GiB") == 6 * 2**30
    assert [bytes_of(text) for text in ("2.01 MB", "4.1e-3 GB")] == [2_010_000, 4_100_000]
    assert bytes_of("1e999999999 GiB") == math.inf
    assert [joules_of(text) for text in ("7mJ", "2 J", "1.5kJ")] == [0.007, 2.0, 1500.0]
    assert [bits_of(text) for text in ("4.5 bits", "4.5bpw", "1 bit", "4 Bits")] == [4.5, 4.5, 1, 4]


def test_what_has_no_unit_or_another_is_none() -> None:
    assert share_of("57") is None
    assert seconds_of("9GB") is None
    assert bytes_of("9ms") is None
    assert joules_of("9W") is None
    assert [bits_of(text) for text in ("4.5", "4.5B", "4.5 GiB", "4,5 bits", "bits")] == [None] * 5
