"""The formula of recall, on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import log, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.recall import ranking
from conversations.recall.dates import Span
from conversations.recall.ranking import (
    SESSION_GAP,
    WEIGHTS,
    WISHES,
    Asked,
    Floats,
    Frame,
    Neighbours,
    bm25,
    from_baseline,
    idf,
    session_numbers,
    weights,
)


def frame(
    *counts: Sequence[float],
    cosines: Sequence[float] | None = None,
    speakers: Sequence[int] | None = None,
    asks: Sequence[bool] | None = None,
    sessions: Sequence[int] | None = None,
    times: Sequence[bool] | None = None,
    lengths: Sequence[float] | None = None,
    named: bool = True,
    wishes: Sequence[bool] | None = None,
) -> Frame:
    """A frame of as many messages as a row of counts is long, or as there are cosines."""
    size = len(counts[0]) if counts else len(cosines or ())
    table = np.array(counts, float).reshape(len(counts), size)
    return Frame(
        seconds=np.array([86_400.0 * (day + 0.5) for day in range(size)]),
        sessions=np.array(sessions if sessions is not None else [0] * size, np.int64),
        speakers=np.array(speakers if speakers is not None else [1, 2] * size, np.int64)[:size],
        by_user=np.array([True, False] * size, np.bool_)[:size],
        named=np.full(size, named),
        asks=np.array(asks if asks is not None else [False] * size, np.bool_),
        wishes=np.array(wishes if wishes is not None else [False] * size, np.bool_),
        times=np.array(times if times is not None else [False] * size, np.bool_),
        lengths=np.array(lengths if lengths is not None else [10.0] * size),
        counts=table,
        rarity=idf((table > 0).sum(axis=1), size),
        cosines=np.array(cosines if cosines is not None else [nan] * size),
    )


def parts(frame: Frame, asked: Asked | None = None) -> dict[str, Floats]:
    return ranking.parts(frame, asked or Asked())


def test_bm25_follows_its_formula() -> None:
    counts, lengths = np.array([[2.0, 0.0, 1.0]]), np.array([10.0, 20.0, 30.0])
    rarity = idf(np.array([2]), 3)
    assert rarity[0] == pytest.approx(log(1 + (3 - 2 + 0.5) / (2 + 0.5)))
    found = bm25(counts, lengths, rarity, k1=1.2, b=0.5)
    assert found[0] == pytest.approx(rarity[0] * 2 * 2.2 / (2 + 1.2 * (0.5 + 0.5 * 10 / 20)))
    assert found[1] == 0
    assert found[2] == pytest.approx(rarity[0] * 1 * 2.2 / (1 + 1.2 * (0.5 + 0.5 * 30 / 20)))


def test_a_word_in_every_message_counts_little_but_never_negatively() -> None:
    assert 0 < idf(np.array([1000]), 1000)[0] < 0.001 < 6 < idf(np.array([1]), 1000)[0]


def test_each_part_is_at_most_its_weight() -> None:
    found = parts(
        frame([1, 0, 3, 0], [0, 0, 1, 1], cosines=[0.9, 0.2, 0.1, nan], asks=[True, False, False, True]),
        Asked(speakers=(1,)),
    )
    assert found.keys() == WEIGHTS.keys()
    for name, values in found.items():
        assert np.abs(values).max() <= abs(WEIGHTS[name]) + 1e-9, name
    assert found["vector"].max() == pytest.approx(WEIGHTS["vector"])
    assert found["words"].max() == pytest.approx(WEIGHTS["words"])


def test_a_message_without_a_vector_scores_zero_for_vector() -> None:
    assert list(parts(frame(cosines=[0.5, nan]))["vector"]) == [WEIGHTS["vector"], 0]


def test_models_whose_unrelated_texts_are_similar_rank_the_same() -> None:
    cosines = np.array([0.5, 0.3, *[0.1, 0.0] * 40])
    assert from_baseline(0.7 + 0.3 * cosines)[:2] == pytest.approx(from_baseline(cosines)[:2], abs=0.25)
    assert from_baseline(0.7 + 0.3 * cosines)[10] < 0.45 < (0.7 + 0.3 * cosines[10]) / (0.7 + 0.3 * cosines[0])


def test_the_only_message_is_found_by_its_vector() -> None:
    assert from_baseline(np.array([0.3])) == pytest.approx([1.0])
    assert from_baseline(np.array([-0.3])) == pytest.approx([0.0])


def test_words_of_neighbouring_turns_count_less() -> None:
    words = parts(frame([0, 0, 1, 0, 0]))["words"]
    assert words[2] > words[3] > words[1] > words[0] == words[4] == 0


def test_sessions_separate_neighbours() -> None:
    words = parts(frame([0, 1, 0], sessions=[0, 0, 1]))
    assert words["words"][2] == words["nearby"][2] == 0 < words["words"][0]


def test_a_session_is_a_run_without_a_long_gap() -> None:
    hour = 3600.0
    assert list(session_numbers(np.array([0, 60, 120, 120 + SESSION_GAP.total_seconds() + 1, 5 * hour]))) == [
        0,
        0,
        0,
        1,
        1,
    ]
    follows = np.array([False, True, False])
    assert list(np.diff(session_numbers(np.array([0.0, 60.0, 120.0]), follows))) == [0, 1]
    assert list(session_numbers(np.zeros(0))) == []


def test_a_session_that_answers_lifts_all_of_its_messages() -> None:
    by_words = parts(frame([1, 0, 0, 0], sessions=[3, 3, 4, 4]))["session"]
    assert by_words == pytest.approx(np.array([0.5, 0.5, 0, 0]) * WEIGHTS["session"])
    by_vector = parts(frame(cosines=[0.9, 0, 0, 0], sessions=[3, 3, 4, 4]))["session"]
    assert by_vector == pytest.approx(by_words)


def test_nearby_is_the_share_of_the_querys_words() -> None:
    near = parts(frame([1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0] * 6))["nearby"]
    assert near == pytest.approx(np.array([0.5, 1.0, 1.0, 1.0, 0.5, 0.5]) * WEIGHTS["nearby"])


def test_messages_of_the_participant_asked_about_are_preferred() -> None:
    assert list(parts(frame([0, 0, 0]), Asked(speakers=(2,)))["speaker"]) == [0, WEIGHTS["speaker"], 0]
    assert not parts(frame([0, 0, 0]))["speaker"].any()


def test_an_answer_gets_a_share_of_its_question() -> None:
    found = parts(frame(cosines=[0.9, 0.1, 0.1, 0.1, 0.1], asks=[True, *[False] * 4], speakers=[1, 2, 2, 1, 2]))[
        "answer"
    ]
    assert found[1] == pytest.approx(WEIGHTS["answer"])
    assert found[2] == pytest.approx(WEIGHTS["answer"] / 2)
    assert found[3] == 0  # who asked does not answer
    assert found[4] == 0


def test_questions_count_less_than_statements() -> None:
    assert list(parts(frame([0, 0], asks=[True, False]))["question"]) == [WEIGHTS["question"], 0]


def test_a_message_of_a_day_that_is_asked_about_is_preferred() -> None:
    found = parts(frame([0, 0, 0]), Asked(days=(Span(date(1970, 1, 2), date(1970, 1, 2)),)))["date"]
    assert found[1] == WEIGHTS["date"] > found[2] > found[0] > 0
    assert not parts(frame([0, 0, 0]))["date"].any()


def test_a_message_that_tells_a_time_is_preferred() -> None:
    assert list(parts(frame([0, 0], times=[True, False]))["time"]) == [WEIGHTS["time"], 0]


def test_messages_of_less_than_a_dozen_words_count_less() -> None:
    assert list(parts(frame([0, 0, 0], lengths=[3, 12, 90]))["short"]) == [WEIGHTS["short"] * 0.75, 0, 0]


def test_in_a_chat_with_an_assistant_the_user_states_the_facts() -> None:
    chat = frame([0, 1, 0, 0], asks=[True, False, True, False], cosines=[0.9, 0.1, 0.1, 0.1], named=False)
    found = parts(chat, Asked())
    assert list(found["user"]) == [WEIGHTS["user"], 0, WEIGHTS["user"], 0]
    assert not found["question"].any()
    assert not found["nearby"].any()
    assert not parts(chat, Asked(of_assistant=True))["user"].any()
    between_people = parts(frame([0, 1, 0, 0], asks=[True, False, True, False]))
    assert not between_people["user"].any()
    assert between_people["question"].any()


def test_in_a_chat_with_an_assistant_a_message_counts_for_the_reply_to_it() -> None:
    cosines = [0.1, 0.1, 0.1, 0.9, 0.1, 0.1]
    chat = frame(cosines=cosines, named=False)
    found = parts(chat)["reply"]
    assert found[2] == WEIGHTS["reply"] > 10 * found[[0, 4]].max()
    assert not found[[1, 3, 5]].any()
    assert parts(frame([0, 0, 0, 1, 0, 0], cosines=[0.5] * 6, named=False))["reply"][2] == WEIGHTS["reply"]
    assert not parts(frame(cosines=cosines, named=False, sessions=[0, 0, 0, 1, 1, 1]))["reply"][2]
    assert not parts(chat, Asked(of_assistant=True))["reply"].any()
    assert not parts(frame(cosines=cosines))["reply"].any()


def test_the_standing_wishes_nearest_to_the_query_count_in_a_chat_with_an_assistant() -> None:
    wishes = [True] * (WISHES + 1) + [False]
    cosines = [(place + 1) / len(wishes) for place in range(len(wishes))]
    found = parts(frame(cosines=cosines, wishes=wishes, named=False))["wish"]
    assert list(found > 0) == [False, *[True] * WISHES, False]
    latest = parts(frame([0] * len(wishes), wishes=wishes, named=False))["wish"]
    assert list(latest) == list(found)
    assert not parts(frame(cosines=cosines, wishes=wishes))["wish"].any()


def test_among_more_than_two_people_the_session_counts_more() -> None:
    cosines = [0.9, 0.1, 0.1, 0.1]
    of_two, of_three = (frame(cosines=cosines, speakers=speakers) for speakers in ([1, 2, 1, 2], [1, 2, 3, 2]))
    assert list(parts(of_three)["session"]) == list(2 * parts(of_two)["session"])
    statement = Asked(is_statement=True)
    assert list(parts(of_three, statement)["session"]) == list(parts(of_two, statement)["session"])


def test_in_a_statement_words_count_less_and_a_name_counts_nothing() -> None:
    messages = frame([1, 0, 0, 0], cosines=[0.2, 0.9, 0.1, 0.1])
    question, statement = parts(messages, Asked((1,))), parts(messages, Asked((1,), is_statement=True))
    assert question["words"].max() > 2 * statement["words"].max() > 0
    assert list(question["vector"]) == list(statement["vector"])
    assert question["speaker"].any()
    assert not statement["speaker"].any()


def test_an_empty_frame_gives_no_scores() -> None:
    assert all(not values.size for values in parts(frame(cosines=[])).values())
    assert not parts(frame([0, 0], cosines=[nan, nan]))["words"].any()


@given(st.integers(1, 8), st.integers(-10, 10).filter(bool))
def test_neighbours_stop_at_the_first_and_last_message(size: int, distance: int) -> None:
    moved = Neighbours(np.zeros(size, np.int64)).of(np.arange(1.0, size + 1), distance)
    assert list(moved) == [i - distance + 1 if 0 <= i - distance < size else 0 for i in range(size)]


def test_a_query_in_a_script_that_the_model_does_not_know_counts_on_its_words() -> None:
    known, foreign = (weights(frame([1, 2]), Asked(is_foreign=is_foreign)) for is_foreign in (False, True))
    assert foreign["vector"] < known["vector"]
    assert {**foreign, "vector": 0} == {**known, "vector": 0}
