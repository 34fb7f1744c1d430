"""Documents in: files, folders, globs, rows of tables, and objects that a program already holds.

`read_documents` turns all of them into one stream of `Document`. What cannot be read becomes a `FailedSource`, and the
stream goes on.
"""

from embedprefs_qdrant.documents.document import Document, FailedSource, FailureKind
from embedprefs_qdrant.documents.reading import read_documents

__all__ = ["Document", "FailedSource", "FailureKind", "read_documents"]
