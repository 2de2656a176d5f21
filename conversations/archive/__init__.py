"""Export and import: what is remembered as JSON, and back, with nothing lost.

A message is one object. Its first fields are those of the original Reservoir, so that its users can read it:
trace_id, partition, instance, content, role, embedding, url, timestamp (milliseconds). Then come ours: `payload` is
its JSON as the API sent it, `id` and `parent` are numbers that hold within the file, `uid` is who it is wherever it
goes. `exchange` has the fields of its exchange; texts of the request and the ledger stand at the first message of
an exchange only, since one request may have brought thousands.

Importing reads these and what the original Reservoir exported. Nothing is imported twice, whatever was imported
before, so an import that was stopped is simply started again.
"""

from conversations.archive.reading import BadLine, Item, read
from conversations.archive.storing import Imported, Importer
from conversations.archive.writing import as_array, as_lines, export

__all__ = ["BadLine", "Imported", "Importer", "Item", "as_array", "as_lines", "export", "read"]
