"""One line that says where something is: rewritten in place on a terminal, elsewhere a line for each change."""

from __future__ import annotations

from rich.console import Console

BAR = 24
_FULL, _EMPTY = "█", "░"


class StatusLine:
    """Writes beside the output, on standard error; belongs to one command."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._key: object = None
        self._open = False

    def show(self, text: str, key: object = None) -> None:
        """Shows `text` in place of what was shown; where nothing can be rewritten, only if `key` is another (default: text)."""
        key = text if key is None else key
        if self._console.is_terminal:
            self._console.file.write(f"\r\x1b[2K{text[: self._console.width - 1]}")
            self._console.file.flush()
            self._open = True
        elif key != self._key:
            self._console.print(text, style="dim", markup=False)
        self._key = key

    def end(self) -> None:
        """Takes the line away, so that other output may follow."""
        if self._open:
            self._console.file.write("\r\x1b[2K")
            self._console.file.flush()
            self._open = False


def bar(done: float, of: float) -> str:
    """A progress bar."""
    full = round(BAR * min(done / of, 1.0)) if of else 0
    return _FULL * full + _EMPTY * (BAR - full)
