"""Secrets that serve for a while: to wrap one costs more than to make a data key of it, so one serves for up to a minute.

Who takes it out of a process's memory reads what was sealed under it, not what was sealed before. So nothing is kept past its
time: every use lets go of what is too old, and a service has `run` beside it. Nothing is kept on a disk.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Final, Generic, NamedTuple, TypeVar

from llmos.infra.crypto.envelope import Secret

RENEW_SECONDS: Final = 60.0
"""How long a secret makes data keys."""
SWEEP_SECONDS: Final = 1.0
"""How often those that are too old are looked for, beside the one that is asked for."""
SECRETS: Final = 1024
"""Secrets that are kept at most, those used last."""

K = TypeVar("K", bound=Hashable)


class _Kept(NamedTuple):
    secret: Secret
    made_at: float
    """Unix seconds."""
    pid: int


class KeptSecrets(Generic[K]):
    """Secrets by what they are for. Usable from any thread; a process that forks makes its own."""

    def __init__(self, most: int = SECRETS) -> None:
        """`most`: how many are kept, those used last."""
        self.most = most
        self._kept: OrderedDict[K, _Kept] = OrderedDict()
        self._swept_at = 0.0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, what: K, now: float, make: Callable[[], Secret], key_ids: Sequence[str] | None = None) -> Secret:
        """The secret for `what`: the one that is kept, or what `make` makes. `now`: Unix seconds.

        `key_ids`: the keys that it must be wrapped by; under any others it is let go of. Raises what `make` raises.
        """
        with self._lock:
            if not 0.0 <= now - self._swept_at < SWEEP_SECONDS:
                self._sweep(now)
            kept = self._kept.get(what)
            if kept is None or not _serves(kept, now, key_ids):
                self._kept.pop(what, None)
                kept = self._kept[what] = _Kept(make(), now, os.getpid())
                while len(self._kept) > self.most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(what)
            return kept.secret

    async def run(self, now: Callable[[], float]) -> None:
        """Sweeps until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(now())

    def drop(self, what: K, secret: Secret) -> None:
        """Lets go of this secret for `what`; one that was made after it stays."""
        with self._lock:
            kept = self._kept.get(what)
            if kept is not None and kept.secret is secret:
                del self._kept[what]

    def sweep(self, now: float) -> None:
        """Lets go of all that are too old at `now` (Unix seconds)."""
        with self._lock:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        self._swept_at = now
        for what in [what for what, kept in self._kept.items() if not _serves(kept, now, None)]:
            del self._kept[what]


def _serves(kept: _Kept, now: float, key_ids: Sequence[str] | None) -> bool:
    """A clock that was set back ends it, too, so that it prolongs nothing."""
    return (
        0.0 <= now - kept.made_at < RENEW_SECONDS
        and kept.pid == os.getpid()
        and (key_ids is None or kept.secret.key_ids == tuple(key_ids))
    )
