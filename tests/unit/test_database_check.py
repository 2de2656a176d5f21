"""What a database server reports, and what its owner is told to do."""

from __future__ import annotations

import pytest

from reservoir_site.database_check import Facts, problem

GOOD = Facts("18.1", 18, "app", "memory", "public", '"$user", public', "0.8.1", "0.8.1", "public", True)


@pytest.mark.parametrize(
    "good",
    [
        GOOD,
        GOOD._replace(version="15.4 (Debian)", major=15),
        GOOD._replace(version="19devel", major=19),
        GOOD._replace(vector="0.7.0"),
        GOOD._replace(vector="", vector_schema="", vector_found=False),
        GOOD._replace(available_vector=""),
    ],
)
def test_a_server_that_can_hold_the_memory(good: Facts) -> None:
    assert problem(good) is None


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (GOOD._replace(version="14.9", major=14), "is PostgreSQL 14.9: use PostgreSQL 15 or newer"),
        (GOOD._replace(schema="", search_path="gone"), "(gone) names no schema that exists"),
        (GOOD._replace(vector="", available_vector=""), "lacks the vector extension: install pgvector"),
        (GOOD._replace(vector="", available_vector="0.6.2"), "has pgvector 0.6.2, too old: install pgvector 0.7"),
        (GOOD._replace(vector="0.5.1"), "is version 0.5.1, too old: run ALTER EXTENSION vector UPDATE"),
        (GOOD._replace(vector="0.5.1", available_vector="0.5.1"), "has pgvector 0.5.1, too old"),
        (GOOD._replace(vector_schema="ext", vector_found=False), "in the schema ext, which is not in the search_path"),
        (GOOD._replace(role="My-App", schema="", search_path="x"), 'ALTER ROLE "My-App" SET'),
    ],
)
def test_a_server_that_cannot_is_told_why_in_one_sentence(bad: Facts, sentence: str) -> None:
    said = problem(bad)
    assert said and sentence in said and said.endswith(".") and "\n" not in said
