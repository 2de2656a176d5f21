"""How long does the server take for each page of the admin, in a database of a million messages?

    python -m benchmarks.admin_pages                 builds the database below a temporary folder, measures, removes it
    python -m benchmarks.admin_pages --home DIR      keeps it in DIR and reuses it the next time

The messages are those of benchmarks.recall: scopes of 1,000, 10,000 and 100,000 and many of 1,000 around them, here in
a hundred partitions. Half a million exchanges are added, each with a ledger, all within the last thirty days, which is
the worst case for the dashboard. Each page is requested once and then ten more times (three if it takes over a second),
in this process and on an open connection: the time is that of the view, its queries and its template. The first time
is listed separately, since the caches are cold for that page. The dashboard's figures are summed up anew each time. The
CPU time, the mean of the later times, tells something on a busy machine too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.home import home
from benchmarks.processes import cpu_seconds, tree
from benchmarks.recall import PARTITION, SIZES, Language, build

TIMES = 10
TIMES_IF_SLOW = 3
SLOW = 1000  # milliseconds
PARTITIONS = 100

EXCHANGES = """
INSERT INTO conversations_exchange (id, trace_id, instance_id, created, finished, model, provider, streamed, ended,
    status, finish_reason, error, usage, input_tokens, output_tokens, cost, timings, memory, memories, memory_tokens,
    parameters, prompts, request_ids, left_out, question_id)
SELECT m.id, gen_random_uuid(), m.instance_id, moment, moment + interval '2 s',
    (ARRAY['gpt-4o', 'gpt-4o-mini', 'mistral-large'])[1 + m.id % 3],
    (ARRAY['openai', 'openai', 'mistral'])[1 + m.id % 3],
    m.id % 2 = 0, CASE WHEN m.id % 97 = 0 THEN 'failed' ELSE 'answered' END, 200, 'stop',
    CASE WHEN m.id % 97 = 0 THEN 'rate_limit: slow down' ELSE '' END,
    '{"prompt_tokens": 800, "completion_tokens": 90}', 800, 90, 0.002,
    '{"recall": 12, "enrich": 2, "provider": 400, "answer": 90, "total": 510}', 'on', 5, 400,
    '{"model": "gpt-4o", "messages": [], "temperature": 0.2}',
    '[[0, "{\\"role\\": \\"system\\", \\"content\\": \\"Be brief.\\"}"]]',
    ARRAY[m.id], '{}', m.id
FROM conversations_message m, LATERAL (SELECT now() - random() * m.id / m.id * interval '30 days' AS moment) t
WHERE m.role = 'user' ORDER BY moment
"""

# What an app resends and recall considers in the measured scope: forty turns, fifty candidates. Elsewhere ten.
EARLIER = """
CREATE TEMP TABLE earlier AS
SELECT id, ids[greatest(1, array_length(ids, 1) - CASE WHEN measured THEN 49 ELSE 9 END):] AS ids, measured FROM (
    SELECT m.id, m.role, m.instance_id = ANY(%s) AS measured,
        array_agg(m.id) OVER (PARTITION BY m.instance_id ORDER BY m.id ROWS BETWEEN 50 PRECEDING AND 1 PRECEDING) AS ids
    FROM conversations_message m
) said WHERE role = 'user' AND ids IS NOT NULL
"""

REQUESTS = """
UPDATE conversations_exchange e SET request_ids = w.ids[greatest(1, array_length(w.ids, 1) - 38):] || e.id
FROM earlier w WHERE w.id = e.id AND w.measured
"""

LEDGERS = """
INSERT INTO conversations_ledger (
    exchange_id, instance_id, key, entries, considered, candidates, injected, message_ids, tokens
)
SELECT w.id, e.instance_id, decode(md5(w.id::text), 'hex'),
    (SELECT convert_to(jsonb_agg(jsonb_build_object('id', c.id, 'arm', 'recall', 'score', 2.0 / n, 'tokens', 40,
        'arms', jsonb_build_object('vector', jsonb_build_object('rank', n, 'score', 0.6),
                                   'words', jsonb_build_object('rank', n + 1, 'score', 0.4)),
        'piece', jsonb_build_array(0, 200), 'kept', n < 6, 'why', 'shown: relevant'))::text, 'UTF8')
     FROM unnest(w.ids) WITH ORDINALITY c(id, n)),
    w.ids[6:], '[]',
    '["{\\"role\\": \\"system\\", \\"content\\": \\"<memory>\\\\nnotes\\\\n</memory>\\"}"]', w.ids[:5], 400
FROM earlier w JOIN conversations_exchange e ON e.id = w.id
"""

ANSWERS = """
UPDATE conversations_message m SET exchange_id = (
    SELECT max(q.id) FROM conversations_message q
    WHERE q.instance_id = m.instance_id AND q.role = 'user' AND q.id <= m.id
) WHERE instance_id = %s
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Pages of the admin in a database of a million messages.")
    parser.add_argument("--home", type=Path, help="keep the database here")
    parser.add_argument("--messages", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with home(arguments.home):
        run(arguments.messages)


def run(messages: int) -> None:
    from conversations import indexes
    from conversations.embedding import active_model
    from conversations.models import Exchange, Partition
    from reservoir_site import database, server

    server.prepare_database()
    if not Partition.objects.filter(name=PARTITION).exists():
        build(Language(), messages)
    if not Exchange.objects.exists():
        add_exchanges()
    model = active_model()
    for scope in indexes.without_index(model):  # as a server does
        indexes.create(scope.instance_id, model)
    measure()
    if running := database.embedded():
        running.release()


def add_exchanges() -> None:
    """Store exchanges and ledgers for all messages; in the smallest scope, answers are linked to theirs."""
    from django.db import connection

    from conversations.models import Instance, Partition

    partitions = Partition.objects.bulk_create(Partition(name=f"project-{number:02}") for number in range(PARTITIONS))
    for number, partition in enumerate(partitions):
        others = Instance.objects.filter(name__endswith=f"{number:02}", name__startswith="other")
        others.update(partition=partition)
    with connection.cursor() as cursor:
        cursor.execute(EXCHANGES)
        measured = Instance.objects.filter(name__in=map(str, SIZES)).values_list("pk", flat=True)
        cursor.execute(EARLIER, [list(measured)])
        cursor.execute(REQUESTS)
        cursor.execute(LEDGERS)
        cursor.execute(ANSWERS, [Instance.objects.get(name=str(SIZES[0])).pk])
        cursor.execute(
            "UPDATE conversations_instance i SET exchange_count = message_count / 2, last_active = "
            "(SELECT max(created) FROM conversations_message m WHERE m.instance_id = i.id)"
        )
        for table in ("conversations_exchange", "conversations_ledger"):
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), 10000000), %s", [table, table])
        cursor.execute("VACUUM ANALYZE")


def pages() -> list[tuple[str, str]]:
    """The measured pages: names and addresses."""
    from django.urls import reverse
    from django.utils import timezone

    from conversations.models import Exchange, Instance, Message, Partition

    small, middle, large = (Instance.objects.get(name=str(size)) for size in SIZES)
    asked = Exchange.objects.filter(instance=small).order_by("-id")[3]
    said = Message.objects.filter(instance=large).order_by("created")[50_000]
    word = max(said.content.split(), key=len).strip("?.")
    common = Message.objects.filter(instance=large)[0].content.split()[0]
    listed = ("partition", "instance", "exchange", "message")
    lists = {name: reverse(f"admin:conversations_{name}_changelist") for name in listed}
    forget = reverse("admin:prune")
    meaning = reverse("admin:search") + "?by=meaning&q=the+garden"
    of_scope = f"{forget}?partition_name={PARTITION}&instance_name="
    half = "100000&role=assistant"

    today = timezone.now().date()
    yesterday, year_ago = today - timedelta(days=1), today - timedelta(days=365)

    def change(row: Any) -> str:
        return reverse(f"admin:conversations_{row._meta.model_name}_change", args=[row.pk])

    busiest = Partition.objects.get(name=PARTITION)
    return [
        ("dashboard: the page", reverse("admin:index")),
        ("dashboard: its figures, 24 hours", reverse("admin:index") + "?window=day&summed=1"),
        ("dashboard: its figures, yesterday", reverse("admin:index") + "?window=yesterday&summed=1"),
        ("dashboard: its figures, 7 days", reverse("admin:index") + "?window=week&summed=1"),
        ("dashboard: its figures, 30 days", reverse("admin:index") + "?window=month&summed=1"),
        ("partitions", lists["partition"]),
        ("conversations", lists["instance"]),
        ("exchanges", lists["exchange"]),
        ("exchanges, last page that is offered", lists["exchange"] + "?p=40"),
        ("exchanges by cost", lists["exchange"] + "?o=7"),
        ("exchanges by tokens, fewest first", lists["exchange"] + "?o=-6"),
        ("exchanges by duration, of yesterday", lists["exchange"] + f"?o=8&first={yesterday}&last={yesterday}"),
        ("exchanges of a provider", lists["exchange"] + "?provider=mistral"),
        ("exchanges of a provider: none", lists["exchange"] + "?provider=nobody"),
        ("exchanges of a provider that failed", lists["exchange"] + "?provider=mistral&ended__exact=failures"),
        ("exchanges by the name of a model", lists["exchange"] + "?q=large"),
        ("exchanges that failed", lists["exchange"] + "?ended__exact=failed"),
        ("exchanges that went without memory: none", lists["exchange"] + "?memory=degraded"),
        ("exchanges of the large conversation", f"{lists['exchange']}?instance={large.pk}"),
        ("exchanges of a partition", f"{lists['exchange']}?partition={busiest.pk}"),
        ("exchanges by words of the question", f"{lists['exchange']}?q={word}"),
        ("messages", lists["message"]),
        ("messages, last page that is offered", lists["message"] + "?p=40"),
        ("messages of yesterday", lists["message"] + f"?first={yesterday}&last={yesterday}"),
        ("messages of a day a year ago: none", lists["message"] + f"?first={year_ago}&last={year_ago}"),
        ("messages by role", lists["message"] + "?role=assistant"),
        ("messages of tools: none", lists["message"] + "?role=tool"),
        ("messages by a word", f"{lists['message']}?q={word}"),
        ("messages by a common word", f"{lists['message']}?q={common}"),
        ("usage of yesterday by model", reverse("admin:usage") + "?span=yesterday&by=model"),
        ("usage of 7 days by partition and model", reverse("admin:usage") + "?span=week"),
        ("a partition", change(busiest)),
        ("a conversation of 100,000", change(large)),
        ("the middle of it", f"{change(large)}?at={said.pk}"),
        ("a date in it", f"{change(large)}?date={said.created:%Y-%m-%d}"),
        ("an exchange with its ledger", change(asked)),
        ("a message", change(said)),
        ("search by a word, everywhere", reverse("admin:search") + f"?q={word}"),
        ("search by a common word, everywhere", reverse("admin:search") + f"?q={common}"),
        ("search by words in the large one", reverse("admin:search") + f"?q={common}&instance={large.pk}"),
        ("search by meaning: the page", f"{meaning}&instance={large.pk}"),
        ("search by meaning: everywhere", f"{meaning}&compared=1"),
        ("search by meaning: in the large one", f"{meaning}&compared=1&instance={large.pk}"),
        ("map: the page", reverse("admin:map", args=[middle.pk])),
        ("map: what is drawn, of 1,000", reverse("admin:map", args=[small.pk]) + "?drawn=1"),
        ("map: what is drawn, of 5,000", reverse("admin:map", args=[middle.pk]) + "?drawn=1"),
        ("forget one message", f"{forget}?message={said.pk}"),
        ("forget 1,000: the page", f"{of_scope}1000&whole=on"),
        ("forget 1,000: what is counted", f"{of_scope}1000&whole=on&counted=1"),
        ("forget 50,000 of 100,000: the page", f"{of_scope}{half}"),
        ("forget 50,000 of 100,000: what is counted", f"{of_scope}{half}&counted=1"),
        ("forget 100,000: the page", f"{of_scope}100000&whole=on"),
        ("forget 100,000: what is counted", f"{of_scope}100000&whole=on&counted=1"),
    ]


def measure() -> None:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client

    from conversations.models import Partition, StaffLimit

    root, _ = User.objects.get_or_create(username="root", defaults={"is_superuser": True, "is_staff": True})
    some, made = User.objects.get_or_create(username="some", defaults={"is_staff": True})
    if made:
        from django.contrib.auth.models import Permission

        some.user_permissions.set(Permission.objects.filter(content_type__app_label="conversations"))
        StaffLimit.objects.create(user=some).partitions.set(
            Partition.objects.filter(name__in=[PARTITION, "project-01", "project-02"])
        )
    for user, about in ((root, "a superuser"), (some, "a user limited to three partitions")):
        client = Client(headers={"host": "localhost"})
        client.force_login(user)
        client.get("/admin/search/?q=warm&by=meaning&compared=1")  # loads the embedding model
        print(f"\n{about:42} first ms  median ms  slowest ms  queries  CPU ms  of PostgreSQL")
        for name, url in pages():
            queries: list[str] = []
            with connection.execute_wrapper(counting(queries)):
                first = timed(client, url)
            own, postgres = time.process_time(), postgres_seconds()
            rest = [timed(client, url) for _ in range(TIMES if first < SLOW else TIMES_IF_SLOW)]
            own, postgres = (
                1000 * spent / len(rest) for spent in (time.process_time() - own, postgres_seconds() - postgres)
            )
            figures = f"{first:8.0f} {statistics.median(rest):10.0f} {max(rest):11.0f} {len(queries):8}"
            print(f"{name:42} {figures} {own:7.0f} {postgres:14.0f}")


def postgres_seconds() -> float:
    """The CPU time that the embedded PostgreSQL has spent."""
    from django.conf import settings

    file = settings.RESERVOIR_HOME / "postgres" / "data" / "postmaster.pid"
    return cpu_seconds(tree(int(file.read_text().split()[0])))


def counting(queries: list[str]) -> Any:
    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        queries.append(sql)
        return execute(sql, params, many, context)

    return count


def timed(client: Any, url: str) -> float:
    from django.core.cache import cache

    cache.clear()  # of the dashboard's figures
    started = time.perf_counter()
    response = client.get(url)
    took = (time.perf_counter() - started) * 1000
    assert response.status_code == 200, (url, response.status_code)
    return took


if __name__ == "__main__":
    main()
