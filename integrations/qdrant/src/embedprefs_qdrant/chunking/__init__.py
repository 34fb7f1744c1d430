"""Documents into chunks that the model reads whole, cut where the text has its joints."""

from embedprefs_qdrant.chunking.chunk import CHUNK_NAMESPACE, Chunk, chunk_id
from embedprefs_qdrant.chunking.chunker import Chunker
from embedprefs_qdrant.chunking.outline import Heading, outline
from embedprefs_qdrant.chunking.template import Template

__all__ = ["CHUNK_NAMESPACE", "Chunk", "Chunker", "Heading", "Template", "chunk_id", "outline"]
