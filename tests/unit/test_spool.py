"""The spool on a real disk: records are found again, whatever happened to their file since."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.actions import Answered, Asked, Ledger
from conversations.querysets import Scope
from conversations.turns import Turn
from proxy.spool.record import HEADER, STATE_AT, Entry, decode, encode, frame, scope_mark
from proxy.spool.replaying import Refused, discard_rejected, replay
from proxy.spool.segments import opened, records
from proxy.spool.writing import Spool, SpoolError, summary

NOW = datetime(2026, 3, 29, 1, 59, 59, 123456, tzinfo=UTC)
HOME = Scope("home", "alice")
ROOT = Path(__file__).resolve().parent.parent.parent


def turn(text: str, role: str = "user") -> Turn:
    payload = {"role": role, "content": text}
    return Turn.from_payload(json.dumps(payload), payload)


def asked(text: str = "hello", scope: Scope = HOME, **more: object) -> Asked:
    known = {"created": NOW, "model": "gpt-4", "provider": "openai", "streamed": False, "turns": (turn(text),)}
    return Asked(trace_id=uuid.uuid4(), scope=scope, **known | more)  # type: ignore[arg-type]


def said(entry: Entry) -> str:
    return entry.asked.turns[0].content


def keep(spool: Spool, *texts: str, scope: Scope = HOME) -> None:
    for text in texts:
        spool.keep(lambda text=text: Entry(asked(text, scope))).result(300)  # type: ignore[misc]


def stored(folder: Path) -> list[str]:
    """The texts that a replay stores, in its order."""
    found: list[str] = []
    replay(folder, lambda entry, abandoned: found.append(said(entry)))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder, limit=2**30)


# --- records ---

texts = st.text(st.characters(codec="utf-8"), max_size=60)
turns = st.lists(st.builds(turn, texts, st.sampled_from(["user", "assistant", "tool"])), max_size=3).map(tuple)
asked_ones = st.builds(
    Asked,
    trace_id=st.uuids(),
    scope=st.builds(Scope, texts, texts),
    created=st.datetimes(timezones=st.just(UTC)),
    model=texts,
    provider=texts,
    streamed=st.booleans(),
    turns=turns,
    left_out=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    prompts=st.lists(st.tuples(st.integers(0, 9), texts), max_size=2).map(tuple),
    parameters=texts,
    memory=st.sampled_from(["on", "off", "degraded"]),
    ledger=st.none()
    | st.builds(
        Ledger,
        key=st.binary(min_size=16, max_size=16),
        candidates=st.lists(st.dictionaries(texts, st.integers() | texts), max_size=2).map(tuple),
        injected=st.lists(texts, max_size=2).map(tuple),
        message_ids=st.lists(st.integers(1), max_size=2).map(tuple),
        tokens=st.integers(0),
    ),
)
answered_ones = st.builds(
    Answered,
    finished=st.datetimes(timezones=st.just(UTC)),
    ended=st.sampled_from(["answered", "cut", "gone", "failed"]),
    status=st.none() | st.integers(100, 599),
    turns=turns,
    finish_reason=texts,
    error=texts,
    usage=st.none() | st.dictionaries(texts, st.integers()),
    cost=st.none() | st.decimals(0, 10, places=8),
    timings=st.dictionaries(texts, st.floats(0, 1e6)),
)
entries = st.builds(Entry, asked_ones, st.none(), st.just(False)) | st.builds(
    Entry, asked_ones, answered_ones, st.booleans()
)


@given(entries)
def test_an_encoded_entry_decodes_to_itself(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


def test_an_entry_with_every_field_decodes_to_itself() -> None:
    ledger = Ledger(b"k" * 16, ({"id": 3, "why": "shown"},), ('{"role": "system"}',), (3,), 12)
    question = asked(
        "Grüße 🦉\x00", left_out=(0,), prompts=((0, '{"role": "system"}'),), parameters='{"n": 1}', ledger=ledger
    )
    answer = Answered(
        NOW, "answered", 200, (turn("ja", "assistant"),), "stop", "", {"a": 1}, Decimal("0.5"), {"x": 1.5}
    )
    assert decode(encode(Entry(question, answer, True))) == Entry(question, answer, True)


def segment(*payloads: bytes) -> bytes:
    return b"".join(frame(data, sequence=i, scope=b"12345678", exchange=b"abcdefgh") for i, data in enumerate(payloads))


def read_back(data: bytes) -> list[bytes | None]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.spool"
        path.write_bytes(data)
        with opened(path) as handle:
            return [record.payload for record in records(handle)]


@given(st.lists(st.binary(max_size=40).map(lambda b: b.hex().encode()), min_size=1, max_size=4), st.data())
def test_a_segment_truncated_at_any_byte_keeps_every_whole_record(payloads: list[bytes], data: st.DataObject) -> None:
    whole = segment(*payloads)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [len(segment(*payloads[: i + 1])) for i in range(len(payloads))]
    assert read_back(whole[:cut]) == [p for p, end in zip(payloads, ends, strict=True) if end <= cut]


def test_a_last_record_truncated_at_any_byte_loses_only_itself() -> None:
    first, whole = segment(b"one"), segment(b"one", b"two")
    for cut in range(len(first), len(whole)):
        assert read_back(whole[:cut]) == [b"one"], cut


@given(st.lists(st.text(max_size=20).map(ascii).map(str.encode), min_size=1, max_size=4), st.data())
def test_a_flipped_byte_damages_at_most_its_own_record(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(segment(*payloads))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found = read_back(bytes(whole))
    hit = next(i for i in range(len(payloads)) if at < len(segment(*payloads[: i + 1])))
    rest = [p for i, p in enumerate(payloads) if i != hit]
    found_good = [p for p in found if p is not None]
    assert found_good in (rest, payloads), "every other record is found, and no record that was never written"


def test_any_flipped_bit_of_a_segment_damages_at_most_its_own_record() -> None:
    whole = segment(b"one", b"two", b"three")
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        found = [p for p in read_back(bytes(damaged)) if p is not None]
        assert len(found) >= 2 and set(found) <= {b"one", b"two", b"three"}, bit


# --- writing and replaying ---


def test_records_are_on_disk_and_replayed_in_order_exactly_once(spool: Spool, folder: Path) -> None:
    texts = [f"message {n}" for n in range(50)]
    keep(spool, *texts)
    assert stored(folder) == texts
    assert stored(folder) == []


def test_the_records_of_a_killed_process_are_replayed_by_the_next(folder: Path) -> None:
    writing = """
import django; django.setup()
from tests.unit.test_spool import Path, Spool, keep, os
keep(Spool(Path(os.environ["SPOOL"]), limit=2**30), "one", "two")
os._exit(0)  # without closing anything
"""
    subprocess.run([sys.executable, "-c", writing], env=os.environ | {"SPOOL": str(folder)}, cwd=ROOT, check=True)
    assert summary(folder)["waiting"] == 2
    assert stored(folder) == ["one", "two"]
    assert not list(folder.glob("*.spool"))


def test_records_of_concurrent_processes_are_replayed_in_the_order_that_clients_saw(folder: Path) -> None:
    spools = [Spool(folder, limit=2**30) for _ in range(3)]
    texts = [f"message {n}" for n in range(30)]
    for n, text in enumerate(texts):
        keep(spools[n % 3], text)
    assert stored(folder) == texts


def test_a_scope_is_blocked_until_its_records_of_all_processes_are_stored(folder: Path) -> None:
    mine, other = Spool(folder, limit=2**30), Spool(folder, limit=2**30)
    assert not mine.holds(HOME)
    keep(other, "hello")
    assert mine.holds(HOME) and not mine.holds(Scope("home", "bob"))
    assert mine.pending() == 1
    stored(folder)
    assert not mine.holds(HOME)
    assert mine.pending() == 0


def test_an_interrupted_replay_continues_where_it_stopped(spool: Spool, folder: Path) -> None:
    keep(spool, "one", "two", "three")
    found: list[str] = []

    def store(entry: Entry, abandoned: bool) -> None:
        if said(entry) == "two" and len(found) == 1:
            found.append("")
            raise ConnectionError
        found.append(said(entry))

    with pytest.raises(ConnectionError):
        replay(folder, store)
    replay(folder, store)
    assert found == ["one", "", "two", "three"]


def test_a_replay_may_rest_after_each_batch(spool: Spool, folder: Path) -> None:
    keep(spool, "one", "two")
    found: list[str] = []
    replay(folder, lambda entry, _: found.append(said(entry)), give_way=lambda seconds: found.append(f"{seconds >= 0}"))
    assert found == ["one", "True", "two", "True"]


def test_a_refused_record_is_set_aside_and_delays_no_other(spool: Spool, folder: Path) -> None:
    keep(spool, "one", "bad", "three")
    found: list[str] = []

    def store(entry: Entry, abandoned: bool) -> None:
        if said(entry) == "bad":
            raise Refused("DataError")
        found.append(said(entry))

    assert replay(folder, store) == (2, 1, 0)
    assert found == ["one", "three"]
    assert summary(folder) | {"bytes": 0} == {"waiting": 0, "rejected": 1, "bytes": 0}
    assert not spool.holds(HOME)
    assert stored(folder) == []
    assert replay(folder, lambda entry, abandoned: found.append(said(entry)), rejected_too=True).stored == 1
    assert found[-1] == "bad"
    assert summary(folder)["rejected"] == 0


def test_refused_records_can_be_discarded(spool: Spool, folder: Path) -> None:
    def refuse(entry: Entry, abandoned: bool) -> None:
        raise Refused("DataError")

    keep(spool, "bad", "worse")
    replay(folder, refuse)
    assert discard_rejected(folder) == 2
    assert discard_rejected(folder) == 0


def test_a_damaged_record_is_counted_and_skipped(spool: Spool, folder: Path) -> None:
    keep(spool, "one", "two", "three")
    (path,) = folder.glob("*.spool")
    at = path.read_bytes().index(b"two")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"TWO")
    found: list[str] = []
    assert replay(folder, lambda entry, abandoned: found.append(said(entry))) == (2, 0, 1)
    assert found == ["one", "three"]


def test_stored_text_is_gone_from_the_disk(spool: Spool, folder: Path) -> None:
    keep(spool, "a secret of mine", "and another")
    assert any(b"a secret of mine" in path.read_bytes() for path in folder.iterdir())
    stored(folder)
    assert not any(b"secret" in path.read_bytes() or b"another" in path.read_bytes() for path in folder.iterdir())
    spool.tidy()
    assert not list(folder.glob("*.spool"))
    keep(spool, "later")  # in a new segment
    assert stored(folder) == ["later"]


def test_only_the_owner_can_read_the_spool(spool: Spool, folder: Path) -> None:
    keep(spool, "hello")
    assert {path.stat().st_mode & 0o077 for path in [folder, *folder.iterdir()]} == {0}


def test_a_record_over_the_limit_is_refused_and_earlier_ones_stay(folder: Path) -> None:
    spool = Spool(folder, limit=2500)
    keep(spool, "one")
    with pytest.raises(SpoolError, match="RESERVOIR_SPOOL_LIMIT"):
        keep(spool, "x" * 3000)
    keep(spool, "two")
    assert stored(folder) == ["one", "two"]


def test_an_entry_that_cannot_be_encoded_fails_alone(spool: Spool, folder: Path) -> None:
    def broken() -> Entry:
        raise ValueError

    with pytest.raises(SpoolError):
        spool.keep(broken).result(300)
    keep(spool, "fine")
    assert stored(folder) == ["fine"]


def test_concurrent_records_share_flushes_without_loss(
    spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[int] = []
    flush: Callable[[int], None] = os.fdatasync
    gate = threading.Event()

    def counted(handle: int) -> None:
        gate.wait(300)
        flushes.append(handle)
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", counted)
    waiting = [spool.keep(lambda n=n: Entry(asked(str(n)))) for n in range(200)]  # type: ignore[misc]
    gate.set()
    for future in waiting:
        future.result(300)
    assert len(flushes) < 20
    monkeypatch.undo()
    assert stored(folder) == [str(n) for n in range(200)]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
@settings(max_examples=30)
def test_any_mix_of_writing_and_replaying_stores_each_record_once_in_order(steps: list[str], processes: int) -> None:
    with TemporaryDirectory() as home:
        folder = Path(home) / "spool"
        spools = [Spool(folder, limit=2**30) for _ in range(processes)]
        written: list[str] = []
        found: list[str] = []
        for n, step in enumerate(steps):
            if step == "a":
                replay(folder, lambda entry, abandoned: found.append(said(entry)), most=2)
            elif step == "b":
                spools[n % processes].close()
            else:
                keep(spools[n % processes], str(n))
                written.append(str(n))
        while replay(folder, lambda entry, abandoned: found.append(said(entry))).stored:
            pass
        for spool in spools:
            spool.close()
        assert found == written
        assert not list(folder.glob("*.spool"))


def test_a_question_and_its_answer_are_stored_together(spool: Spool, folder: Path) -> None:
    question = asked("hello")
    answer = Answered(NOW, "answered", 200, (turn("hi", "assistant"),))
    spool.keep(lambda: Entry(question))
    keep(spool, "another")
    spool.keep(lambda: Entry(replace(question, turns=()), answer, True)).result(300)
    found: list[Entry] = []
    replay(folder, lambda entry, abandoned: found.append(entry))
    assert found[0] == Entry(question, answer)
    assert [said(entry) for entry in found] == ["hello", "another"]


def test_scopes_are_stored_in_turn_each_with_the_records_added_meanwhile(spool: Spool, folder: Path) -> None:
    for n in range(3):
        keep(spool, f"alice {n}")
        keep(spool, f"bob {n}", scope=Scope("home", "bob"))
    found: list[str] = []

    def store(entry: Entry, abandoned: bool) -> None:
        found.append(said(entry))
        if said(entry) in ("alice 1", "alice 2"):
            keep(spool, f"later, after {said(entry)}")

    replay(folder, store)
    alice = ["alice 0", "alice 1", "alice 2", "later, after alice 1", "later, after alice 2"]
    assert found == [*alice, "bob 0", "bob 1", "bob 2"]


def test_a_process_that_starts_writing_during_a_replay_is_not_overtaken_by_an_older_one(folder: Path) -> None:
    """During a replay that knows only the old worker, a client's connection moves from a new worker to the old one."""
    old, new = Spool(folder, limit=2**30), Spool(folder, limit=2**30)
    bob = Scope("home", "bob")
    keep(old, "alice 0")
    keep(old, "alice 1")
    found: list[str] = []

    def store(entry: Entry, abandoned: bool) -> None:
        found.append(said(entry))
        if said(entry) == "alice 0":
            keep(new, "bob 0", scope=bob)
            keep(old, "bob 1", scope=bob)

    replay(folder, store)
    assert found == ["alice 0", "alice 1", "bob 0", "bob 1"]


def test_the_state_of_a_stored_record_is_at_its_offset(spool: Spool, folder: Path) -> None:
    keep(spool, "hello")
    (path,) = folder.glob("*.spool")
    stored(folder)
    data = path.read_bytes()
    assert data[STATE_AT] == 0x0F and not any(data[HEADER.size :])
    assert scope_mark(HOME) != scope_mark(Scope("home", "bob"))
