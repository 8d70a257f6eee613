"""Read the lists of a json file piece by piece, in a few megabytes of memory.

COCO's training annotations are 450 MB of text, and several times that as dictionaries.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CHUNK = 1 << 22
"""Characters read at a time."""
_WHITE = " \t\n\r"
_SPACE = re.compile(f"[{_WHITE}]*")
_BEHIND = frozenset(_WHITE + ",:]}")
"""What can follow a value."""


class NotJsonError(ValueError):
    """A text that breaks json's rules."""


def read_lists(path: Path, unread: str) -> Iterator[tuple[str, list[Any]]]:
    """The lists of the object in `path`, piece by piece: a key and some of its entries at a time, in file order.

    A list begins with an empty piece, so that one without entries is seen too. Keys without a list are left out.
    Lists of numbers under the key `unread`, wherever it occurs, become 0 without being decoded: COCO's polygons
    are nine tenths of its text.

    Raises:
        OSError, UnicodeDecodeError, NotJsonError, RecursionError: the file cannot be read.
        TypeError: it does not hold an object.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file, unread)
        if text.peek() != "{":
            raise TypeError(f"it holds a {type(text.value()).__name__}, not an object")
        for _ in text.items("{", "}"):
            key = text.value()
            text.skip(":")
            if text.peek() == "[":
                yield key, []
                for _ in text.items("[", "]"):
                    yield key, text.values()
            else:
                text.value()
        if text.peek():
            raise NotJsonError(f"{text.peek()!r} behind its end")


class _Text:
    """The text of a file from a position on, of which no more is held than was asked for."""

    def __init__(self, file: TextIO, unread: str) -> None:
        self._file, self._decode = file, json.JSONDecoder().raw_decode
        # Up to the bracket in front of the next key or the object's end, so never to one inside a list that is cut.
        self._numbers = re.compile(rf'"{unread}":\s*\[[^"{{}}]*\](?=,?\s*["}}])')
        self._zero = f'"{unread}":0'
        self._held, self._at = "", 0
        self._many = True
        """Whether several of the values held may be decoded at once."""

    def _read_on(self) -> bool:
        """Hold more text, twice as much if nothing of it was used; False at the end of the file."""
        more = self._file.read(max(_CHUNK, len(self._held) - self._at))
        if more:
            self._held, self._at = self._numbers.sub(self._zero, self._held[self._at :] + more), 0
            self._many = True
        return bool(more)

    def peek(self) -> str:
        """The next character that is not white, empty at the end."""
        character = self._held[self._at : self._at + 1]
        if character and character not in _WHITE:  # nearly always; the search below takes longer
            return character
        while True:
            match = _SPACE.match(self._held, self._at)
            assert match
            self._at = match.end()
            if self._at < len(self._held) or not self._read_on():
                return self._held[self._at : self._at + 1]

    def skip(self, character: str) -> None:
        """Pass over `character`, which must be next."""
        if self.peek() != character:
            raise NotJsonError(f"{self.peek() or 'the end'!r} where {character!r} should be")
        self._at += 1

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._held, self._at)
            except json.JSONDecodeError as error:
                if not self._read_on():
                    raise NotJsonError(error.msg) from None
                continue
            # Only what follows it shows that a number is whole: "1" may go on as "1.5" or "1e3".
            if self._held[end : end + 1] in _BEHIND or not self._read_on():
                self._at = end
                return value

    def values(self) -> list[Any]:
        """Decode the next value and, where they are objects, those behind it that are held whole."""
        self.peek()
        if self._many:
            end = max(self._held.rfind(between, self._at) for between in ("},{", "}, {")) + 1
            try:
                if end > self._at:  # all at once is twice as quick
                    values = json.loads(f"[{self._held[self._at : end]}]")
                    self._at = end
                    return values
            except json.JSONDecodeError:
                pass  # `end` is inside of a value, or in another list
            self._many = False
        return [self.value()]

    def items(self, begin: str, end: str) -> Iterator[None]:
        """Stop in front of each item between two brackets, for the caller to pass over."""
        self.skip(begin)
        if self.peek() == end:
            self._at += 1
            return
        while True:
            yield
            character = self.peek()
            if character not in (",", end):
                raise NotJsonError(f"{character or 'the end'!r} where ',' or {end!r} should be")
            self._at += 1
            if character == end:
                return
