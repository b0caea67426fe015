"""Dead letters for people and as JSON objects: what strangers wrote is shown, never obeyed by the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table

from llmos.cli.dead import Entry, name_of
from llmos.cli.dead_letters import content_type
from llmos.cli.tables import table, yes
from llmos.cli.units import at_time, size
from llmos.schemas.base import JSON
from llmos.schemas.dead import DeadContents, DeadLetter

SHOWN_BYTES = 4096
"""Of a value that is no message, so many bytes are shown; `--raw` gives all."""
_LINE_BYTES = 32


def letters(entries: Sequence[Entry], now: float) -> Table:
    """The list."""
    columns = ("origin", "code", "stage", "when", "size", "put back", "died again", "why")
    rows = [
        (
            name_of(entry.letter.origin),
            entry.letter.error.code,
            entry.letter.stage,
            at_time(entry.letter.at, now),
            size(entry.letter.size) + (", cut" if entry.letter.cut else ""),
            yes(entry.replayed is not None),
            entry.letter.replays or "",
            safe(entry.letter.error.message),
        )
        for entry in entries
    ]
    return table("dead letters", columns, rows)


def letter_object(entry: Entry) -> dict[str, Any]:
    """A letter as a JSON object, without its contents."""
    letter, replayed = entry.letter, entry.replayed
    return {
        "origin": name_of(letter.origin),
        "code": letter.error.code,
        "message": letter.error.message,
        "stage": letter.stage,
        "at": letter.at,
        "taken_at": letter.taken_at,
        "size": letter.size,
        "cut": letter.cut,
        "attempt": letter.attempt,
        "replays": letter.replays,
        "first": name_of(letter.first) if letter.first else None,
        "key_id": letter.key_id,
        "replayed_at": replayed.at if replayed else None,
        "replayed_to": name_of(replayed.to) if replayed else None,
    }


def facts(entry: Entry, now: float) -> Table:
    """What a letter says outside."""
    letter, replayed = entry.letter, entry.replayed
    rows: list[tuple[str, object]] = [
        ("origin", name_of(letter.origin)),
        ("why", f"{letter.error.code}: {safe(letter.error.message)}"),
        ("stage", letter.stage),
        ("when", at_time(letter.at, now)),
        ("size", size(letter.size) + (", cut to what a letter holds" if letter.cut else "")),
        ("sealed under", letter.key_id),
    ]
    if letter.attempt:
        rows.append(("attempt", letter.attempt))
    if letter.first is not None:
        rows.append(("put back before", f"{letter.replays} times; first it was {name_of(letter.first)}"))
    if replayed is not None:
        rows.append(("put back", f"{at_time(replayed.at, now)}, to {name_of(replayed.to)}"))
    return table("", ("what", "value"), rows)


def contents_object(letter: DeadLetter, contents: DeadContents) -> dict[str, Any]:
    """The record inside as a JSON object; bytes are base64."""
    return {
        "origin": name_of(letter.origin),
        "key": contents.key,
        "headers": [[name, value] for name, value in contents.headers],
        "value": contents.value,
    }


def contents_lines(contents: DeadContents) -> list[str]:
    """The record inside: key, headers, and the value as a message where it is one, else as bytes."""
    lines = [f"key: {_bytes(contents.key) if contents.key is not None else 'none'}"]
    lines += [f"header {safe(name)}: {_bytes(value)}" for name, value in contents.headers]
    return [*lines, *value_lines(contents)]


def value_lines(contents: DeadContents) -> list[str]:
    """The value: JSON and MessagePack written out, text as text, anything else as bytes."""
    said = content_type(contents) == JSON
    for name, decode in (("JSON", msgspec.json.decode), ("MessagePack", msgspec.msgpack.decode)):
        if (name == "JSON") != said:
            continue
        try:
            found = decode(contents.value)
            if not isinstance(found, dict | list):
                break  # nearly every byte string is some number in MessagePack
            text = msgspec.json.format(msgspec.json.encode(_plain(found)), indent=2).decode()
        except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError, ValueError):
            break
        return [f"value, {name}:", *(safe(line) for line in text.splitlines())]
    plain = _text(contents.value)
    if plain is not None:
        shown = safe_lines(plain[:SHOWN_BYTES])
        more = f"… {len(plain) - SHOWN_BYTES} characters more; --raw --out FILE writes all"
        return ["value, text:", *shown, *([more] if len(plain) > SHOWN_BYTES else [])]
    return ["value, bytes:", *_dump(contents.value)]


def _text(value: bytes) -> str | None:
    """The bytes as text, where they are some; None: they are none."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text and all(c.isprintable() or c in "\n\t" for c in text) else None


def safe_lines(text: str) -> list[str]:
    """The lines of a text, each `safe`."""
    return [safe(line.replace("\t", "    ")) for line in text.split("\n")]


def _plain(found: Any, *, inside: bool = False) -> Any:
    """What JSON can write: bytes inside as the message or the text that they are (of a clear payload, say), else as a word
    of what they are; keys as text. `inside`: of such a message, in which no further one is looked for."""
    if isinstance(found, dict):
        return {
            name if isinstance(name, str) else repr(name): _plain(value, inside=inside) for name, value in found.items()
        }
    if isinstance(found, list | tuple):
        return [_plain(value, inside=inside) for value in found]
    if isinstance(found, bytes):
        message = None if inside else _message(found)
        if message is not None:
            return message
        text = _text(found)
        return text if text is not None else f"{len(found)} bytes: {_bytes(found)}"
    return found if isinstance(found, str | int | float | bool | None) else repr(found)


def _message(value: bytes) -> Any:
    """A map or list that bytes inside of a message hold, in JSON or MessagePack; None: they hold none."""
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            found = decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
            continue
        if isinstance(found, dict | list):
            return _plain(found, inside=True)
    return None


def _bytes(value: bytes) -> str:
    """A few bytes: as text where they are printable, else in hexadecimal."""
    text = value[:64].decode("ascii", errors="replace")
    shown = repr(text) if text.isprintable() and "\ufffd" not in text else value[:64].hex()
    return shown + (f" … {len(value)} bytes" if len(value) > 64 else "")


def _dump(value: bytes) -> list[str]:
    lines = []
    for start in range(0, min(len(value), SHOWN_BYTES), _LINE_BYTES):
        piece = value[start : start + _LINE_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{start:06x}  {piece.hex(' ', -4):<{2 * _LINE_BYTES + _LINE_BYTES // 4}} {text}")
    if len(value) > SHOWN_BYTES:
        lines.append(f"… {len(value) - SHOWN_BYTES} bytes more; --raw --out FILE writes all")
    return lines


def safe(text: str) -> str:
    """The text with what steers terminals (escape sequences, marks of direction) written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
