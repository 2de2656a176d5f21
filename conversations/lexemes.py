"""The lexemes of a message: words as PostgreSQL's text search stores them, and pairs of characters.

The text search configuration in RESERVOIR_LANGUAGE stems words and drops stop words. PostgreSQL finds no words in
scripts written without spaces, so their text is stored as overlapping pairs of characters, and each Chinese character
also on its own, since it is often a word. (Pairs need no dictionary and rank about as well as words from one: Nie et
al., "On the use of words and n-grams for Chinese information retrieval", 2000.) Korean is written with spaces, but its
words carry endings, and pairs match them anyway.

A lexeme's places in the text are stored only if there are several: how many counts for ranking, and PostgreSQL takes a
lexeme without a place for one that occurs once. Where words have to follow each other, as in a quoted search, the text
is read again (see spoken()).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.postgres.search import (
    SearchQuery,
    SearchQueryCombinable,
    SearchVector,
    SearchVectorCombinable,
    SearchVectorField,
)
from django.db import connection
from django.db.models import Case, F, Func, TextField, Value, When
from django.db.models.functions import Concat, Left

# PostgreSQL rejects a tsvector whose words take more than 1 MB, some four bytes a word beside its letters. Text beyond
# these limits is found by its vectors only.
INDEXED_CHARACTERS = 200_000
INDEXED_BYTES = 500_000
INDEXED_WITHOUT_SPACES = 20_000

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\uff66-\uff9d"
_HANGUL = "\u1100-\u11ff\uac00-\ud7a3"
_SOUTH_EAST_ASIAN = "\u0e01-\u0e4e\u0e81-\u0ecd\u1000-\u103f\u1780-\u17d3"  # Thai, Lao, Burmese, Khmer
_UNSPACED = re.compile(f"[{_HAN}{_KANA}{_HANGUL}{_SOUTH_EAST_ASIAN}]+")
_UNSPACED_TERM = re.compile(f"((?<![^ ])-)?([{_HAN}{_KANA}{_HANGUL}{_SOUTH_EAST_ASIAN}]+)")
_ONE_HAN = re.compile(f"[{_HAN}]")

_QUESTION_MARKS = ("?", "\uff1f", "\u061f")  # Latin, Chinese and Japanese, Arabic
_LONGEST_QUESTION = 600  # characters: a long answer that ends with "Shall I go on?" is not a question


class _Literal(SearchVectorCombinable, Func):
    template = "(%(expressions)s)::tsvector"
    output_field = SearchVectorField()


STORED = """
    (SELECT strip(whole) || ts_delete(whole, ARRAY(SELECT lexeme FROM unnest(whole) WHERE cardinality(positions) = 1))
     FROM (SELECT {vector} AS whole OFFSET 0) made)
"""
"""SQL for what is stored of a tsvector: places only of the lexemes that have several."""


class _Stored(SearchVectorCombinable, Func):
    template = STORED.format(vector="%(expressions)s")
    output_field = SearchVectorField()


def search_vector(instance_id: int, name: str, content: str) -> Func:
    """The expression to store. It includes the speaker's name, so that a name in a question finds what they said.

    It also includes the instance, so that the index finds words in one scope without reading rows of others.
    """
    spaced, pairs = indexed_text(name, content)
    literal = f"'{scope_lexeme(instance_id)}' {pairs}"
    return _Stored(SearchVector(Value(spaced), config=settings.RESERVOIR_LANGUAGE) + _Literal(Value(literal)))


def computed_vector(instance_id: int, name: str, content: str) -> Func:
    """What search_vector() gives, by a statement of its own: Citus takes no subquery where it stores rows."""
    spaced, pairs = indexed_text(name, content)
    with connection.cursor() as cursor:
        cursor.execute(COMPUTE, [settings.RESERVOIR_LANGUAGE, spaced, f"'{scope_lexeme(instance_id)}' {pairs}"])
        (computed,) = cursor.fetchone()
    return _Literal(Value(computed))


COMPUTE = f"SELECT ({STORED.format(vector='to_tsvector(%s::regconfig, %s) || %s::tsvector')})::text"


def indexed_text(name: str, content: str) -> tuple[str, str]:
    """What the index of words holds of a message besides its scope, as split_by_script() gives it."""
    return split_by_script(f"{name}: {content}" if name else content)


class _LiteralQuery(SearchQuery):
    """A query that PostgreSQL takes as it is, without parsing it into words."""

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        sql, parameters = compiler.compile(self.get_source_expressions()[-1])
        return f"({sql})::tsquery", parameters


class Query(NamedTuple):
    """Conditions for messages that contain words. All of `lexemes` hold for the stored lexemes of a message.

    `text`, if there is one, holds for spoken(): it has words that follow each other.
    """

    lexemes: Sequence[SearchQueryCombinable]
    text: SearchQueryCombinable | None = None


def search_query(words: str) -> Query:
    """Finds messages by words: all of them, "phrases", -exclusions. No input is an error.

    PostgreSQL would take a run of a script without spaces for one word. Its pairs are looked for instead, as they are
    stored; a single character is looked for alone and as the beginning of a pair.
    """
    spaced = _UNSPACED_TERM.sub(" ", words)
    terms = [_unspaced_term(*match.groups()) for match in _UNSPACED_TERM.finditer(words)]
    pairs = [_LiteralQuery(" & ".join(terms))] if terms else []
    if terms and not spaced.strip():
        return Query(pairs)
    query = SearchQuery(spaced, config=settings.RESERVOIR_LANGUAGE, search_type="websearch")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT query::text, querytree(query) FROM websearch_to_tsquery(%s::regconfig, %s) query",
            [settings.RESERVOIR_LANGUAGE, spaced],
        )
        written, without_exclusions = cursor.fetchone() or ("", "")
    if not any(match[1] for match in _FOLLOWED_BY.finditer(written)):
        return Query([query, *pairs])
    anywhere = _FOLLOWED_BY.sub(lambda match: "&" if match[1] else match[0], without_exclusions)
    return Query([_LiteralQuery(anywhere), *pairs] if anywhere != _EVERYTHING else pairs, text=query)


# A lexeme in a tsquery, or in group 1 an operator for words that follow each other: <->, or <2> over a stop word.
_FOLLOWED_BY = re.compile(r"'(?:[^']|'')*'|(<(?:-|\d+)>)")
_EVERYTHING = "T"  # PostgreSQL's querytree() of a query that has nothing but exclusions


def spoken() -> SearchVector:
    """A message's row -> its speaker's name and text with all places, without scripts that have no spaces."""
    with_name = Concat("name", Value(": "), "content", output_field=TextField())
    named = Case(When(name="", then=F("content")), default=with_name)
    pattern, every = Value(_UNSPACED.pattern), Value("g")
    text = Func(
        Left(named, INDEXED_CHARACTERS),
        pattern,
        Value(" "),
        every,
        function="regexp_replace",
        output_field=TextField(),
    )
    return SearchVector(text, config=settings.RESERVOIR_LANGUAGE)


def _unspaced_term(excluded: str, run: str) -> str:
    if len(run) == 1:
        term = f"('{run}' | '{run}':*)"
    else:
        term = "(" + " & ".join(f"'{run[at : at + 2]}'" for at in range(len(run) - 1)) + ")"
    return f"!{term}" if excluded else term


def scope_lexeme(instance_id: int) -> str:
    """A lexeme that every message of the instance has. No text produces one that begins with "#"."""
    return f"#{instance_id}"


def split_by_script(text: str) -> tuple[str, str]:
    """The text for `to_tsvector`, and the scripts without spaces as a tsvector literal of pairs."""
    text = text[:INDEXED_CHARACTERS]
    if not text.isascii():
        text = text.encode(errors="replace")[:INDEXED_BYTES].decode(errors="ignore")
    runs = "".join(f"{run} " for run in _UNSPACED.findall(text))[:INDEXED_WITHOUT_SPACES].split()
    places: dict[str, list[str]] = {}
    place = 0
    for run in runs:
        for gram in _grams(run):
            place += 1
            places.setdefault(gram, []).append(str(place))
    return _UNSPACED.sub(" ", text), " ".join(f"'{gram}':{','.join(at)}" for gram, at in places.items())


def as_query(lexeme: str) -> str:
    """A lexeme as a tsquery literal, escaped."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def asks(content: str) -> bool:
    """Whether a message is a question."""
    return len(content) <= _LONGEST_QUESTION and content.rstrip().endswith(_QUESTION_MARKS)


def _grams(run: str) -> Iterator[str]:
    for at, character in enumerate(run):
        if len(run) == 1 or _ONE_HAN.match(character):
            yield character
        if at + 1 < len(run):
            yield run[at : at + 2]
