"""From a file's bytes to text: plain text, Markdown with front matter, rst, HTML and PDF."""

from __future__ import annotations

import codecs
import io
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedprefs.errors import MissingExtraError
from embedprefs_qdrant.documents.document import SourceError

__all__ = ["PARSERS", "ParsedText", "decode", "front_matter", "read_bytes"]

_DISTRIBUTION = "embedprefs-qdrant"
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?P<yaml>.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
#: Front matter is a page of settings at most; a longer block between rulers is prose.
_FRONT_MATTER_LIMIT = 65_536
_HTML_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*(?P<name>[A-Za-z0-9_.:-]+)""", re.IGNORECASE)


@dataclass(frozen=True)
class ParsedText:
    """What a parser found in one file."""

    text: str
    format: str
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    body_start: int = 0


def decode(data: bytes) -> str:
    """The text in some bytes: UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        SourceError: The bytes are not text in these encodings; the message names the first offending byte.
    """
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"Not {encoding.removesuffix('-sig').upper()}: {error.reason} at byte offset {error.start}. "
            "Save the file as UTF-8.",
            "undecodable",
            line=line,
        ) from error
    if "\0" in text:
        raise SourceError(
            f"The file holds a NUL character at offset {text.index(chr(0))}: it is binary, not text. Exclude it.",
            "undecodable",
        )
    return text


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    """A Markdown file's YAML front matter, and the offset after it.

    It counts as front matter when the file starts with a `---` line, a closing line follows within 64 KiB, and a YAML
    mapping lies between. Everything else stays text, so that nothing is lost: then the answer is an empty mapping, 0.
    """
    if not text.startswith("---"):
        return {}, 0
    match = _FRONT_MATTER.match(text, 0, _FRONT_MATTER_LIMIT)
    if match is None:
        return {}, 0
    import yaml  # type: ignore[import-untyped]

    block = match["yaml"]
    try:
        # An alias can unfold a short block into gigabytes, and no front matter needs one.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(block)):
            return {}, 0
        values = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: YAML knows dates such as 2024-13-45 by shape
        return {}, 0
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        return {}, 0
    return values, match.end()


def _parse_markdown(data: bytes) -> ParsedText:
    text = decode(data)
    metadata, body_start = front_matter(text)
    title = metadata.get("title")
    return ParsedText(text, "markdown", title if isinstance(title, str) else None, metadata, body_start)


def _parse_rst(data: bytes) -> ParsedText:
    return ParsedText(decode(data), "rst")


def _parse_text(data: bytes) -> ParsedText:
    return ParsedText(decode(data), "text")


def _parse_html(data: bytes) -> ParsedText:
    """HTML as Markdown, so that its headings stay headings."""
    try:
        import html_to_markdown
    except ImportError as error:
        raise MissingExtraError(
            "html-to-markdown", extra="html", needed_for="Reading .html files", distribution=_DISTRIBUTION
        ) from error
    html = _decode_html(data)
    options = html_to_markdown.ConversionOptions(
        extract_metadata=False,  # it would be written into the text as front matter
        # An embedded picture is a page of base64, which is nothing to search for.
        inline_data_media=html_to_markdown.InlineDataMedia.ALT_TEXT_ONLY,
        preprocessing=html_to_markdown.PreprocessingOptions(remove_navigation=True, remove_forms=False),
    )
    try:
        text = html_to_markdown.convert(html, options).content or ""
        head = html_to_markdown.convert(html).metadata
    except (ValueError, RuntimeError, html_to_markdown.ConversionError) as error:
        raise SourceError(f"The HTML cannot be read: {error}", "malformed") from error
    return ParsedText(text, "html", (head.document.title if head is not None else None) or None)


def _decode_html(data: bytes) -> str:
    """HTML as text: by byte order mark, else UTF-8, else by the character set that its head declares."""
    try:
        return decode(data)
    except SourceError:
        declared = _HTML_CHARSET.search(data, 0, 1024)
        if declared is None:
            raise
        try:
            return data.decode(declared["name"].decode("ascii"))
        except (LookupError, UnicodeDecodeError) as error:
            raise SourceError(
                f"The page declares the character set {declared['name'].decode('ascii')}, and is not in it: {error}. "
                "Save the file as UTF-8.",
                "undecodable",
            ) from error


def _parse_pdf(data: bytes) -> ParsedText:
    """A PDF's text layer; a form feed stands between pages, so that counting them gives the page of an offset."""
    try:
        import pypdf
    except ImportError as error:
        raise MissingExtraError(
            "pypdf", extra="pdf", needed_for="Reading .pdf files", distribution=_DISTRIBUTION
        ) from error
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        is_open = not reader.is_encrypted or bool(reader.decrypt(""))
        pages = [page.extract_text() for page in reader.pages] if is_open else []
        title = reader.metadata.title if is_open and reader.metadata is not None else None
    except Exception as error:  # damaged files make the parser raise KeyError, TypeError, RecursionError and others
        raise SourceError(f"The PDF cannot be read: {type(error).__name__}: {error}", "malformed") from error
    if not is_open:
        raise SourceError("The PDF is encrypted. Remove its password.", "unreadable")
    text = "\n\f\n".join(pages).encode(errors="replace").decode()
    if not text.strip():
        raise SourceError(
            f"The PDF's {len(pages)} pages hold no text: it is likely scanned. Run OCR on it first.", "unreadable"
        )
    return ParsedText(text, "pdf", str(title) if title else None, {"pages": len(pages)})


#: What reads each file name extension. Rows of tables are read in `rows`.
PARSERS: dict[str, Callable[[bytes], ParsedText]] = {
    ".md": _parse_markdown,
    ".markdown": _parse_markdown,
    ".rst": _parse_rst,
    ".txt": _parse_text,
    ".text": _parse_text,
    ".html": _parse_html,
    ".htm": _parse_html,
    ".pdf": _parse_pdf,
}


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        SourceError: The file cannot be opened or read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError("Not a regular file: a pipe, socket or device holds no document.", "unsupported")
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"The file cannot be read: {error.strerror or error}.", "unreadable") from error
