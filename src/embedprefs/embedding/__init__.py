"""From a file of texts to a file of vectors: streaming, resumable, in one step visible."""

from __future__ import annotations

from embedprefs.embedding.planning import chunk_sizes, embed_file, open_texts, plan_embedding
from embedprefs.embedding.report import EmbedFileReport, JobProgress

__all__ = ["EmbedFileReport", "JobProgress", "chunk_sizes", "embed_file", "open_texts", "plan_embedding"]
