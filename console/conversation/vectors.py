"""One vector for each message, whatever its number of pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from django.db import connection
from numpy.typing import NDArray

Vector = NDArray[np.float32]

# As bytes: parsing a thousand vectors from text takes longer than the rest of a page.
SQL = """
SELECT message_id, model_id, halfvec_send(vector) FROM conversations_embedding WHERE message_id = ANY(%s)
ORDER BY message_id, start
"""


def of_messages(ids: Sequence[int]) -> dict[int, Vector]:
    """Message id -> the mean of its pieces' vectors, of length 1, under the model that embedded most of them.

    Messages without a vector are missing.
    """
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(SQL, [list(ids)])
        rows = cursor.fetchall()
    if not rows:
        return {}
    ((model, _),) = Counter(model for _, model, _ in rows).most_common(1)
    sent = [(message, piece) for message, of_model, piece in rows if of_model == model]
    # Of each two 16-bit numbers (dimensions, unused) and then the elements, all big-endian.
    pieces = np.frombuffer(b"".join(piece for _, piece in sent), dtype=">f2").reshape(len(sent), -1)[:, 2:]
    messages, firsts = np.unique([message for message, _ in sent], return_index=True)
    sums = np.add.reduceat(pieces.astype(np.float32), firsts, axis=0)
    units = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return dict(zip(messages.tolist(), units, strict=True))
