"""What recall finds, and how it handles bad input. Real PostgreSQL; vectors have three dimensions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from math import cos, sin
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from conversations import nearest
from conversations.messages import add_messages
from conversations.models import Embedding, EmbeddingModel, Message
from conversations.querysets import Scope
from conversations.recall import retrieval
from conversations.recall.search import CANDIDATES, PARTS, Candidate, prepare_query, search
from conversations.recall.spans import WHOLE
from conversations.recall.unranked import latest_pairs
from conversations.turns import Turn

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "recall")
MODEL = "three-dimensions"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def remember(*said: str, scope: Scope = SCOPE, start: datetime = START, minutes: float = 1) -> list[int]:
    """Store alternating user and assistant messages; "Name: text" is said by a named participant."""
    turns = []
    for number, text in enumerate(said):
        payload = {"role": ("user", "assistant")[number % 2], "content": text}
        name, colon, rest = text.partition(": ")
        if colon and name.isalpha():
            payload |= {"name": name, "content": rest}
        turns.append((Turn.from_payload(json.dumps(payload), payload), start + timedelta(minutes=minutes * number)))
    return add_messages(scope=scope, messages=turns)


def embed(message_id: int, *vectors: Sequence[float], ends: Sequence[int] = (10, 20, 30)) -> None:
    model, _ = EmbeddingModel.objects.get_or_create(name=MODEL, defaults={"dimensions": 3})
    instance_id = Message.objects.values_list("instance_id", flat=True).get(pk=message_id)
    for vector, start, end in zip(vectors, (0, *(end + 1 for end in ends)), ends, strict=False):
        Embedding.objects.create(
            message_id=message_id, instance_id=instance_id, model=model, start=start, end=end, vector=list(vector)
        )


def recalled(
    query: str,
    vector: Sequence[float] | None = None,
    *,
    scope: Scope = SCOPE,
    limit: int = CANDIDATES,
    without: Sequence[str] = (),
) -> list[Candidate]:
    prepared = prepare_query(scope=scope, text=query)
    return search(query=prepared, vector=vector, model=MODEL, limit=limit, without=without)


def found(query: str, vector: Sequence[float] | None = None, *, scope: Scope = SCOPE) -> list[str]:
    return [candidate.content for candidate in recalled(query, vector, scope=scope)]


# --- what is found ------------------------------------------------------------------------------------


def test_words_match_whatever_their_ending() -> None:
    remember("I painted a sunset over the lake", "Lovely colours!", "We had soup for dinner", "With bread?")
    assert found("Which painting of lakes?")[0] == "I painted a sunset over the lake"


def test_vectors_find_meaning() -> None:
    first, second = remember("Mein Hund heißt Rex", "Ein schöner Name")
    embed(first, [1, 0, 0])
    embed(second, [0, 1, 0])
    best = recalled("the dog", [0.9, 0.1, 0])[0]
    assert best.id == first
    assert best.parts["vector"].rank == 1
    assert best.parts["words"] == (None, 0)


def test_a_message_matches_by_its_best_piece() -> None:
    first, second = remember("A long text", "Another one")
    embed(first, [0, 0, 1], [1, 0, 0])
    embed(second, [0.6, 0.8, 0])
    assert recalled("x", [1, 0, 0])[0].id == first


def test_vectors_of_another_model_are_not_compared() -> None:
    (first,) = remember("Nothing in common")
    other = EmbeddingModel.objects.create(name="two-dimensions", dimensions=2)
    instance = Message.objects.get(pk=first).instance
    Embedding.objects.create(message_id=first, instance=instance, model=other, start=0, end=5, vector=[1, 0])
    assert recalled("query", [1, 0, 0]) == []


def test_a_message_without_a_vector_is_found_by_its_words() -> None:
    first, second = remember("The parcel is in the shed", "The weather is fine")
    embed(second, [1, 0, 0])
    assert {candidate.id for candidate in recalled("Where is the parcel?", [1, 0, 0])} == {first, second}


def test_a_day_in_the_question_finds_what_was_said_then() -> None:
    remember("We painted the lake", "Nice", start=datetime(2025, 3, 13, 9, tzinfo=UTC))
    remember("We painted the sea", "Great", start=datetime(2025, 6, 1, 9, tzinfo=UTC))
    assert found("What did we paint on 13 March 2025?")[0] == "We painted the lake"
    assert found("What did we paint in June?")[0] == "We painted the sea"
    assert found("What happened on 2025-03-13?")[0] in ("We painted the lake", "Nice")


def test_a_question_for_a_time_prefers_turns_that_tell_one() -> None:
    remember("The parcel came last week", "Good", "The parcel is red", "Good")
    times = {each.content: each.parts["time"].score for each in recalled("When did the parcel come?")}
    assert times["The parcel came last week"] > times["The parcel is red"] == 0
    assert all(each.parts["time"].score == 0 for each in recalled("Which colour is the parcel?"))


def test_standing_wishes_are_found_whatever_is_asked() -> None:
    said = [
        "Always answer in French",
        "D'accord",
        *["I keep bees in the garden", "How nice"] * 3,
        "I keep bees",
        "Good",
    ]
    wish = remember(*said)[0]
    found_wish = next(each for each in recalled("How do I keep bees?", limit=2) if each.id == wish)
    assert found_wish.is_wish
    assert found_wish.relevant
    assert found_wish.parts["wish"].score > 0
    assert not any(each.is_wish for each in recalled("How do I keep bees?") if each.id != wish)


def test_what_an_assistant_says_or_people_say_to_each_other_is_no_wish() -> None:
    remember("Thanks", "Always answer in French")
    remember("Ann: Always be kind", "Bob: I keep bees", scope=Scope("tests", "people"))
    assert Message.objects.filter(wish=True).values_list("content", flat=True).get() == "Always be kind"
    people = recalled("bees", scope=Scope("tests", "people"))
    assert not any(each.is_wish for each in people)


def test_the_migration_marks_the_wishes_among_earlier_messages() -> None:
    wish, *_ = remember("Always be brief", "Always be nice", "I keep bees", "Good")
    Message.objects.update(wish=False)
    migration = import_module("conversations.migrations.0011_standing_wishes")
    migration.mark_wishes(None, SimpleNamespace(connection=connection))
    assert list(Message.objects.filter(wish=True).values_list("pk", flat=True)) == [wish]


def test_an_answer_is_found_by_its_question() -> None:
    remember("Where did you put the spare key?", "Under the flower pot", "I see", "So it goes")
    assert found("spare key")[:2] == ["Where did you put the spare key?", "Under the flower pot"]


def test_names_of_participants_count() -> None:
    remember("Caroline: I bought a violin", "Melanie: I bought a violin as well, an old one", "Caroline: Nice!")
    best = recalled("What did Melanie buy?")[0]
    assert best.name == "Melanie"
    assert best.parts["speaker"].score > 0


def test_a_question_about_a_participant_is_embedded_in_the_first_person() -> None:
    remember("Caroline: I bought a violin", "Melanie: Nice!")
    assert prepare_query(scope=SCOPE, text="What is Caroline's violin?").wording == "What is my violin?"
    assert prepare_query(scope=SCOPE, text="What is Sarah's violin?").wording == "What is Sarah's violin?"


def test_the_latest_of_equal_messages_comes_first() -> None:
    remember("The code is blue", start=START)
    remember("So the code is blue", start=START + timedelta(days=9))
    remember("Now the code is blue", start=START + timedelta(days=18))
    assert found("code blue")[0] == "Now the code is blue"


def test_german_words_are_stemmed(settings: Settings) -> None:
    settings.RESERVOIR_LANGUAGE = "german"
    remember("Die Kinder spielten im Garten", "Bei dem Wetter!", "Die Häuser dort sind alt", "Sehr schön", minutes=300)
    assert found("Wo steht das alte Haus?")[0] == "Die Häuser dort sind alt"
    assert found("Hat ein Kind gespielt?")[0] == "Die Kinder spielten im Garten"


@pytest.mark.parametrize(
    ("said", "query"),
    [
        (["我有一只猫，叫小白。", "昨天我去了北京。", "今天天气很好。"], "我的猫叫什么名字？"),  # noqa: RUF001
        (["昨日ラーメンを食べました。", "明日は東京に行きます。", "いい天気ですね。"], "ラーメンは好き？"),  # noqa: RUF001
        (["แมวของฉันชื่อมีมี่", "เมื่อวานฝนตก", "วันนี้อากาศดี"], "แมวชื่ออะไร"),
        (["서울에서 커피를 마셨어요.", "어제는 비가 왔어요.", "오늘은 날씨가 좋아요."], "커피 마셔요?"),
    ],
)
def test_text_without_spaces_is_found(said: list[str], query: str) -> None:
    remember(*said, minutes=300)
    assert found(query)[0] == said[0]


def test_recall_stays_in_its_scope() -> None:
    remember("The secret is 42", scope=Scope("tests", "other"))
    remember("Nothing here")
    assert found("secret") == []


def test_hidden_messages_are_not_found() -> None:
    first, second, third = remember("violin one", "violin two", "violin three")
    Message.objects.filter(pk=first).update(abandoned=True)
    Message.objects.filter(pk=second).update(role="tool")
    assert [candidate.id for candidate in recalled("violin")] == [third]


# --- what is shown ------------------------------------------------------------------------------------


def test_results_below_half_the_top_score_are_dropped() -> None:
    remember(
        "The violin was built in Cremona in 1721", *[f"Something else, number {i}" for i in range(30)], minutes=300
    )
    candidates = recalled("Where was the violin built?")
    assert [candidate.content for candidate in candidates if candidate.relevant] == [
        "The violin was built in Cremona in 1721"
    ]


def test_what_the_request_holds_already_sets_no_bar_for_what_answers_it() -> None:
    question = "Which restaurant should I book for Friday, and what must we not eat?"
    remember(
        "One thing about the restaurant: no shellfish", "Noted", question, "A restaurant by the river, no shellfish"
    )
    (asked,) = Message.objects.filter(content=question)
    alone, beside = (
        {each.content for each in search(query=query, vector=None, model=MODEL, present=present) if each.relevant}
        for query in [prepare_query(scope=SCOPE, text=question)]
        for present in [(), (bytes(asked.digest),)]
    )
    assert "One thing about the restaurant: no shellfish" in beside - alone


def test_one_of_several_equal_messages_is_found() -> None:
    remember(*["ping ping", "pong"] * 500, "The parcel is in the shed")
    assert [candidate.content for candidate in recalled("ping")].count("ping ping") == 1
    assert found("parcel")[0] == "The parcel is in the shed"


def test_a_long_message_is_shown_as_an_excerpt() -> None:
    sentences = [f"Sentence {number} is about subject{number}. " for number in range(60)]
    (first,) = remember("".join(sentences))
    ends = [len("".join(sentences[:count]).rstrip()) for count in (20, 40, 60)]
    embed(first, [0, 1, 0], [1, 0, 0], [0, 0, 1], ends=ends)
    (candidate,) = recalled("subject30", [1, 0, 0])
    assert candidate.text == f"… {''.join(sentences[18:42]).strip()} …"
    assert candidate.content[candidate.start : candidate.end].strip() in candidate.content


def test_a_short_message_is_shown_whole() -> None:
    (first,) = remember("word " * (WHOLE // 5))
    embed(first, [0, 1, 0], [1, 0, 0])
    assert recalled("word", [1, 0, 0])[0].text == ("word " * (WHOLE // 5)).strip()


def test_the_parts_add_up_to_the_score() -> None:
    remember("Caroline: I bought a violin. And you?", "Melanie: A cello", "Caroline: Nice")
    for candidate in recalled("What did Caroline buy?"):
        assert candidate.parts.keys() == set(PARTS)
        assert sum(part.score for part in candidate.parts.values()) == pytest.approx(candidate.score)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_can_be_left_out(part: str) -> None:
    remember("Caroline: I bought a violin. And you?", "Melanie: A violin, too", "Caroline: Nice")
    assert all(candidate.parts[part] == (None, 0) for candidate in recalled("Caroline's violin", without=[part]))


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " \n ", "???", "🙂🙂 👍", "'", "\\", "--", "\x00"])
def test_an_empty_query_finds_nothing(query: str) -> None:
    (first,) = remember("The violin, 🙂 and so on??? ' \\ --")
    embed(first, [1, 0, 0])
    assert recalled(query, [1, 0, 0]) == []


def test_a_query_of_stop_words_is_answered_by_its_vector() -> None:
    (first,) = remember("To be or not to be")
    assert recalled("what was it that we had?") == []
    embed(first, [1, 0, 0])
    assert [candidate.id for candidate in recalled("what was it that we had?", [1, 0, 0])] == [first]


@pytest.mark.parametrize(
    "query",
    [
        "violin & !sold | (case",
        "violin:* <-> 'case'",
        "'violin",
        "violin\\",
        'violin"; DROP TABLE conversations_message; --',
        "violin %s %(name)s {}",
        "violin\x00\ud800",
        "/etc/violin\\x http://example.com/a\\b?violin='1' violin",
    ],
)
def test_query_syntax_is_treated_as_text(query: str) -> None:
    remember("I sold the violin with its case")
    assert found(query) == ["I sold the violin with its case"]


def test_a_very_long_query_is_accepted() -> None:
    remember("I sold the violin with its case", "Good for you")
    assert found("violin " + " ".join(f"word{number}" for number in range(15_000)))[0].startswith("I sold")
    assert found("violin" * 20_000) == []
    assert found("小提琴" * 40_000) == []


def test_an_unknown_scope_has_no_results() -> None:
    assert recalled("violin", [1, 0, 0], scope=Scope("nobody", "nowhere")) == []


def test_a_scope_of_one_message_is_searched() -> None:
    (first,) = remember("I sold the violin")
    embed(first, [1, 0, 0])
    (candidate,) = recalled("violin", [1, 0, 0])
    assert candidate.relevant


def test_messages_without_text_are_skipped() -> None:
    payload = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    add_messages(scope=SCOPE, messages=[(Turn.from_payload(json.dumps(payload), payload), START)])
    remember("A violin", start=START + timedelta(minutes=1))
    assert found("violin image") == ["A violin"]


def test_a_message_without_lexemes_is_tolerated() -> None:
    first, second = remember("A violin", "A cello")
    Message.objects.filter(pk=first).update(lexemes=None)
    assert second in [candidate.id for candidate in recalled("cello")]


def test_a_limit_bounds_the_results() -> None:
    remember(*[f"violin {number}" for number in range(30)])
    assert len(recalled("violin", limit=7)) == 7
    assert recalled("violin", limit=0) == []


def test_messages_may_contain_any_text() -> None:
    texts = ["a" * 300_000, "字" * 300_000, " ".join(str(number) for number in range(40_000)), "'\\'' & | ! <->"]
    remember(*texts)
    assert len(found("39 字")) >= 1


# --- generic plans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_repeated_recall_keeps_finding_the_same_messages(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that was prepared after several runs may get a plan that finds nothing."""
    if large:
        monkeypatch.setattr(retrieval, "READ_WHOLE", 0)
    for other in range(3):
        remember(*[f"noise {number} of {other}" for number in range(40)], scope=Scope("tests", f"other-{other}"))
    ids = remember(*[f"violin number {number}" for number in range(40)])
    for number, pk in enumerate(ids):
        embed(pk, [1, number / 40, 0])
    first = [candidate.id for candidate in recalled("violin number 7", [1, 0, 0])]
    assert len(first) == 40
    for _ in range(20):
        assert [candidate.id for candidate in recalled("violin number 7", [1, 0, 0])] == first


# --- large scopes -------------------------------------------------------------------------------------


def index_of_scope() -> None:
    model = EmbeddingModel.objects.get(name=MODEL)
    instance_id = Message.objects.in_scope(SCOPE).values_list("instance_id", flat=True)[0]
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        sql = nearest.create_index_sql(instance_id, nearest.Model(model.pk, 3))
        cursor.execute(sql.replace("CONCURRENTLY ", ""))  # not possible inside a transaction
    found = nearest.searchable(instance_id, MODEL)
    assert found and (found.id, found.dimensions) == (model.pk, 3)


def direction(number: int) -> list[float]:
    return [cos(number / 130), sin(number / 130), 0]


def large_scope() -> list[int]:
    said = [f"Talk number {number}, nothing of interest" for number in range(400)]
    said[100], said[101] = "Where did you put the spare key?", "Under the flower pot"
    said[300] = "Mein Hund heißt Rex"
    ids = remember(*said)
    for number, pk in enumerate(ids):
        embed(pk, direction(number))
    return ids


@pytest.fixture
def around_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "READ_WHOLE", 0)
    monkeypatch.setattr(retrieval, "CANDIDATES", 5)
    monkeypatch.setattr(retrieval, "WINDOW", 4)


@pytest.mark.usefixtures("around_few")
def test_a_large_scope_finds_words_and_their_neighbours() -> None:
    ids = large_scope()
    best = recalled("spare key", [0, 0, 1])
    assert {candidate.id for candidate in best[:2]} == set(ids[100:102])
    assert len(best) < 20


@pytest.mark.usefixtures("around_few")
def test_in_a_large_scope_standing_wishes_are_found() -> None:
    (wish,) = remember("Never use tables")
    large_scope()
    assert wish in {each.id for each in recalled("spare key") if each.is_wish}


@pytest.mark.usefixtures("around_few")
def test_the_index_of_a_large_scope_finds_the_nearest_messages() -> None:
    ids = large_scope()
    assert recalled("dog", direction(300)) == []
    index_of_scope()
    assert recalled("dog", direction(300))[0].id in ids[295:306]


def test_a_large_scope_read_in_part_ranks_as_if_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    large_scope()
    index_of_scope()
    whole = {candidate.id: candidate.score for candidate in recalled("spare key", direction(101))[:3]}
    monkeypatch.setattr(retrieval, "READ_WHOLE", 0)
    in_part = {candidate.id: candidate.score for candidate in recalled("spare key", direction(101))[:3]}
    assert in_part == pytest.approx(whole, abs=0.2)


@pytest.mark.usefixtures("around_few")
def test_a_large_scope_may_have_no_results() -> None:
    large_scope()
    assert recalled("xylophone") == []
    assert recalled("the") == []


def test_a_question_without_a_participants_name_keeps_its_wording() -> None:
    remember("A violin")
    query = "Which instrument,\n\n  and   whose?"
    assert prepare_query(scope=SCOPE, text=query).wording == query, "another wording would be embedded as well"


@pytest.mark.parametrize("whole", [True, False])
def test_recall_takes_few_messages_to_postgresql_and_each_names_the_scope(
    monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    large_scope()
    index_of_scope()
    if not whole:
        monkeypatch.setattr(retrieval, "READ_WHOLE", 0)
    with CaptureQueriesContext(connection) as sent:
        prepared = prepare_query(scope=SCOPE, text="spare key")
        latest_pairs(prepared.instance_id or 0, most=15, budget=1000, count=len)
        assert search(query=prepared, vector=direction(101), model=MODEL)
    # By their words, which index there is, by vector, around what was found; the whole scope needs one.
    assert len(sent) == 3 + (1 if whole else 4)
    prepare, *others = [query["sql"] for query in sent]
    assert SCOPE.instance in prepare
    for statement in others:
        assert re.search(rf"instance_id = {prepared.instance_id}\b|embedding_near_", statement), statement
