"""Where a text may be cut: between paragraphs rather than sentences, between sentences rather than words.

The choice among equally good places depends on the words around each place and not on how far away it is. A text that
was edited in one place is therefore cut at the same places again soon after it.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from embedprefs_qdrant.chunking.outline import Outline

__all__ = ["Boundaries"]

_NEW_LINE = r"(?:\r\n|\r|\n)"
#: After a blank line; what follows is indented, and so belongs to what came before.
_BLANK = re.compile(rf"{_NEW_LINE}(?:[ \t]*{_NEW_LINE})+|\f\s*")
#: The start of a line that means something by itself: a list item, a table row, indented text, a directive.
_MEANT_LINE = re.compile(rf"{_NEW_LINE}(?=[ \t]+\S|[-*+|>#@]|\d+[.)]\s|\.\.\s|```|~~~|[:\w]+:)")
_LINE = re.compile(_NEW_LINE)
_SENTENCE = re.compile(
    r"[.!?…][\"'”’»)\]*_`]*\s+(?=[^a-z\s])"  # a stop before a small letter is an abbreviation
    r"|[。！？｡．][」』”’）》】]*\s*"
    r"|[؟۔।॥։።]+\s*"
)
_CLAUSE = re.compile(r"[,;:،؛—–]\s+|[、，；：]\s*")
_SPACE = re.compile(r"\s+")
#: Characters before and after a place that decide among equally good ones.
_CONTEXT = 24
_JOINERS = frozenset("\u200d\ufe0e\ufe0f\u20e3")


class Boundaries:
    """The places where one document may be cut.

    Args:
        text: The document's text.
        outline: Its headings and verbatim stretches.
        token_starts: The offset of each of its tokens.
    """

    def __init__(self, text: str, outline: Outline, token_starts: Sequence[int]) -> None:
        self._text = text
        self._outline = outline
        self._token_starts = token_starts

    def best(self, low: int, high: int, *, within_words: bool = True) -> int | None:
        """The best place to cut in `low <= place <= high`.

        Args:
            low: First allowed offset.
            high: Last allowed offset.
            within_words: Whether a place inside a word will do where there is no other.

        Returns:
            The offset at which the next part starts, or None where there is no such place.
        """
        if low > high:
            return None
        for places in (
            self._after_blank_line,
            self._at_sentence_or_line,
            self._at_clause,
            self._at(_LINE),
            self._at(_SPACE),
        ):
            found = places(low, high)
            if found:
                return self._chosen(found)
        return self._within_word(low, high) if within_words else None

    def trimmed(self, start: int, end: int) -> tuple[int, int]:
        """The stretch without the white space at its ends; an empty one where there is nothing else."""
        while start < end and self._text[start].isspace():
            start += 1
        while start < end and self._text[end - 1].isspace():
            end -= 1
        return start, end

    def tokens(self, start: int, end: int) -> int:
        """How many tokens start in a stretch of the text."""
        return bisect_left(self._token_starts, end) - bisect_left(self._token_starts, start)

    def after(self, start: int, tokens: int, end: int) -> int:
        """The offset at which so many tokens after `start` have been read, `end` at most."""
        place = bisect_left(self._token_starts, start) + tokens
        return min(self._token_starts[place], end) if place < len(self._token_starts) else end

    def before(self, end: int, tokens: int, start: int) -> int:
        """The offset at which so many tokens before `end` begin, `start` at least."""
        place = bisect_left(self._token_starts, end) - tokens
        return max(self._token_starts[place], start) if place >= 0 else start

    def _at(self, pattern: re.Pattern[str]) -> Callable[[int, int], list[int]]:
        def places(low: int, high: int) -> list[int]:
            # One match may begin before the window and end within it.
            return [
                end
                for end in (match.end() for match in pattern.finditer(self._text, max(low - 8, 0), high))
                if low <= end <= high and end > 0
            ]

        return places

    def _after_blank_line(self, low: int, high: int) -> list[int]:
        found = [place for place in self._at(_BLANK)(low, high) if not self._outline.is_verbatim(place)]
        outer = [place for place in found if not self._text[place : place + 1].isspace()]
        return outer or found

    def _at_sentence_or_line(self, low: int, high: int) -> list[int]:
        found = [place for place in self._at(_SENTENCE)(low, high) if not self._outline.is_verbatim(place)]
        meant = self._at(_MEANT_LINE)(low, high)
        lines = [place for place in self._at(_LINE)(low, high) if self._outline.is_verbatim(place)]
        return sorted({*found, *meant, *lines})

    def _at_clause(self, low: int, high: int) -> list[int]:
        return [place for place in self._at(_CLAUSE)(low, high) if not self._outline.is_verbatim(place)]

    def _within_word(self, low: int, high: int) -> int | None:
        """The last token's start where no character is torn from its marks."""
        first = bisect_left(self._token_starts, low)
        last = bisect_right(self._token_starts, high)
        starts = self._token_starts[first:last]
        for place in reversed(starts):
            if self._is_whole(place):
                return place
        for place in range(high, low - 1, -1):
            if self._is_whole(place):
                return place
        return starts[-1] if starts else high

    def _is_whole(self, place: int) -> bool:
        """Whether a cut leaves every visible character in one piece."""
        if not 0 < place < len(self._text):
            return True
        before, after = self._text[place - 1], self._text[place]
        if after.isascii() and before.isascii():
            return not (before == "\r" and after == "\n")
        if after in _JOINERS or before == "\u200d" or unicodedata.category(after).startswith("M"):
            return False
        if "\U0001f3fb" <= after <= "\U0001f3ff":  # a skin tone
            return False
        if not _is_flag_letter(after):
            return True
        first = place
        while first and _is_flag_letter(self._text[first - 1]):
            first -= 1
        return (place - first) % 2 == 0  # two letters make a flag

    def _chosen(self, places: list[int]) -> int:
        if len(places) == 1:
            return places[0]
        return min(places, key=lambda place: (self._weight(place), place))

    def _weight(self, place: int) -> int:
        around = self._text[max(place - _CONTEXT, 0) : place + _CONTEXT]
        return zlib.crc32(around.encode(errors="surrogatepass"))


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
