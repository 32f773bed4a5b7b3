"""Cutting a text: which tokens are scored, how often, and in how long a window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.measures.quality.windows import Protocol, Window, cut_windows, documents_of

BOS = 1000
PROTOCOLS: tuple[Protocol, ...] = (
    "default",
    "gptq-2048-nobos",
    "llamacpp-512-half",
    "strided",
)
counts = st.integers(min_value=0, max_value=300)
sizes = st.integers(min_value=2, max_value=70)
starts = st.sampled_from([None, BOS])


def scored_places(windows: list[Window]) -> list[int]:
    """Places in the text of all scored tokens, in order; the text is 0, 1, 2 …"""
    return [token for window in windows for token in window.ids[window.first_scored :]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(count=counts, size=sizes, bos=starts)
def test_what_holds_for_every_protocol(
    protocol: Protocol, count: int, size: int, bos: int | None
) -> None:
    windows = cut_windows(list(range(count)), protocol, size, bos)
    places = scored_places(windows)
    assert places == sorted(set(places)), "scored out of order or twice"
    assert BOS not in places
    for window in windows:
        assert window.first_scored >= 1
        assert window.scored >= 1
        assert len(window.ids) <= size
        assert BOS not in window.ids[1:]
        assert window.ids[-1] == window.text_end - 1
        # What stands before a scored token is what stands before it in the text.
        own = window.ids[1:] if window.ids[0] == BOS else window.ids
        assert list(own) == list(range(own[0], own[0] + len(own)))


@given(count=counts, size=sizes)
def test_default_with_a_start_scores_every_token_once(count: int, size: int) -> None:
    windows = cut_windows(list(range(count)), "default", size, BOS)
    assert scored_places(windows) == list(range(count))
    assert all(window.ids[0] == BOS for window in windows)
    assert all(len(window.ids) == size for window in windows[:-1])
    assert len(windows) == -(-count // (size - 1))


@given(count=counts, size=sizes)
def test_default_without_a_start_leaves_out_the_first_of_each_window(count: int, size: int) -> None:
    windows = cut_windows(list(range(count)), "default", size, None)
    assert scored_places(windows) == [place for place in range(count) if place % size]


@given(count=counts, size=sizes, bos=starts)
def test_gptq_scores_whole_windows_without_a_start(count: int, size: int, bos: int | None) -> None:
    windows = cut_windows(list(range(count)), "gptq-2048-nobos", size, bos)
    whole = count // size * size
    assert scored_places(windows) == [place for place in range(whole) if place % size]
    assert all(len(window.ids) == size and window.ids[0] != BOS for window in windows)


@given(count=counts, size=sizes.filter(lambda size: size % 2 == 0), bos=starts)
def test_llamacpp_scores_the_second_half_of_whole_windows(
    count: int, size: int, bos: int | None
) -> None:
    windows = cut_windows(list(range(count)), "llamacpp-512-half", size, bos)
    shift = 0 if bos is None else 1
    chunks = (count + shift) // size
    if size == 2:
        assert windows == []
        return
    assert len(windows) == chunks
    assert {window.scored for window in windows} <= {size - size // 2 - 1}
    assert scored_places(windows) == [
        chunk * size + at - shift for chunk in range(chunks) for at in range(size // 2 + 1, size)
    ]
    if bos is not None:
        assert all(window.ids[0] == BOS for window in windows)


@given(count=counts, size=sizes, bos=starts)
def test_strided_scores_all_but_the_first_token_once(
    count: int, size: int, bos: int | None
) -> None:
    windows = cut_windows(list(range(count)), "strided", size, bos)
    assert scored_places(windows) == list(range(1, count))
    for window in windows[1:]:
        # At least half a window of context, as long as there is one.
        assert window.first_scored >= size // 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("bos", [None, BOS])
def test_an_empty_text_gives_no_window(protocol: Protocol, bos: int | None) -> None:
    assert cut_windows([], protocol, 8, bos) == []


def test_examples_by_hand() -> None:
    tokens = [10, 11, 12, 13, 14]
    assert cut_windows(tokens, "default", 4, 1) == [
        Window((1, 10, 11, 12), 1, 3),
        Window((1, 13, 14), 1, 5),
    ]
    assert cut_windows(tokens, "default", 4, None) == [Window((10, 11, 12, 13), 1, 4)]
    assert cut_windows(tokens, "gptq-2048-nobos", 2, 1) == [
        Window((10, 11), 1, 2),
        Window((12, 13), 1, 4),
    ]
    assert cut_windows([*tokens, 15, 16], "llamacpp-512-half", 4, 1) == [
        Window((1, 10, 11, 12), 3, 3),
        Window((1, 14, 15, 16), 3, 7),
    ]
    assert cut_windows(tokens, "strided", 4, 1) == [
        Window((10, 11, 12, 13), 1, 4),
        Window((12, 13, 14), 2, 5),
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=12), size=sizes)
def test_a_window_is_of_the_document_that_most_of_its_tokens_are_of(
    protocol: Protocol, lengths: list[int], size: int
) -> None:
    """Each token is one character of the text."""
    owner = [at for at, length in enumerate(lengths) for _ in range(length)]
    windows = cut_windows(list(range(len(owner))), protocol, size, BOS)
    starts = [owner.index(at) for at in range(len(lengths))]
    found = documents_of(windows, [at + 1 for at in range(len(owner))], starts)
    wanted = []
    for window in windows:
        of = [owner[token] for token in window.ids[window.first_scored :]]
        wanted.append(min(set(of), key=lambda one, of=of: (-of.count(one), one)))  # type: ignore[misc]
    assert found == {"window_document": wanted}


def test_without_documents_there_is_no_series_of_them() -> None:
    windows = cut_windows(list(range(10)), "default", 4, None)
    assert documents_of(windows, None, [0, 5]) == {}
    assert documents_of(windows, list(range(1, 11)), None) == {}
    assert documents_of(windows, list(range(1, 11)), [0]) == {}
