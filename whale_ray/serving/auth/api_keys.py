"""Who may call: keys with a name and what each allows, known by their digests alone; and how often each may call.

Knows keys and clocks; knows no HTTP and no Ray. A key itself is neither kept nor passed on nor written anywhere.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whale_ray.errors import InputError

IDENTIFY, ENROL = "identify", "enrol"
ENVIRONMENT = "environment"
SCOPES = (IDENTIFY, ENROL)
LEAST_CHARACTERS = 16
SESSION_SECONDS = 12 * 3600


@dataclass(frozen=True)
class Key:
    """A key: its name, as it stands in the log, the sha256 of the key, and what it allows."""

    name: str
    digest: bytes
    scopes: frozenset[str]


@dataclass(frozen=True)
class Keys:
    """All keys of a service; where there is none, everybody may do everything."""

    keys: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def fingerprint(self) -> str:
        """Another one where any key is another; it gives no key away."""
        return " ".join(f"{key.name} {key.digest.hex()} {sorted(key.scopes)}" for key in self.keys)

    def find(self, key: str) -> Key | None:
        """The key that was given; it takes as long whichever it is, and where it is none."""
        digest, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for one in self.keys:
            if hmac.compare_digest(one.digest, digest):
                found = one
        return found

    def session(self, key: Key, *, now: float) -> str:
        """What a browser holds in place of this key for the next SESSION_SECONDS; every replica knows it."""
        until = str(int(now + SESSION_SECONDS))
        return f"{until}.{_signature(key, until)}"

    def of_session(self, session: str, *, now: float) -> Key | None:
        """The key that this session stands for; None where it has ended, or was never given out."""
        until, _, signature = session.partition(".")
        found = None
        for one in self.keys:
            if hmac.compare_digest(_signature(one, until).encode(), signature.encode("utf-8", "replace")):
                found = one
        return found if found and until.isdigit() and float(until) > now else None


NO_KEYS = Keys()


def _signature(key: Key, until: str) -> str:
    return hmac.new(key.digest, f"whale_ray session {until}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def read_keys(file: Path | None, variable: str | None) -> Keys:
    """The keys of a file, `NAME SCOPE[,SCOPE] KEY` a line, and the one of the environment, which allows everything.

    Raises: InputError with every line that is wrong, and none of the keys; where others may read the file.
    """
    keys = [Key(ENVIRONMENT, _digest(variable, "the key of the environment"), frozenset(SCOPES))] if variable else []
    if file is None:
        return Keys(tuple(keys))
    faults: list[str] = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(_key(line.split()))
        except InputError as error:
            faults.append(f"line {number}: {error}")
    names = [key.name for key in keys]
    faults += [
        f"the name {name!r} stands twice. Give each its own" for name in sorted({*names}) if names.count(name) > 1
    ]
    if not faults and not keys:
        faults = ["there is no key in it. Write one a line"]
    if faults:
        raise InputError(f"{file} must have a key a line, as `boat identify KEY`, but " + "; ".join(faults))
    return Keys(tuple(keys))


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_mode & 0o077:
            raise InputError(f"nobody else may read {file}, which holds keys, but others may. Type chmod 600 {file}")
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} must be a readable text file with keys, but: {error}") from None


def _key(words: list[str]) -> Key:
    if len(words) != 3:
        raise InputError(f"a line has a name, scopes and a key, but this one has {len(words)} words")
    name, scopes, key = words
    wanted = frozenset(scopes.split(","))
    if not wanted <= set(SCOPES):
        raise InputError(f"a scope is one of {', '.join(SCOPES)}, but {name} has {scopes!r}")
    return Key(name, _digest(key, f"the key of {name}"), wanted)


def _digest(key: str, what: str) -> bytes:
    if len(key) < LEAST_CHARACTERS:
        raise InputError(f"{what} must have at least {LEAST_CHARACTERS} characters. Take `openssl rand -hex 24`")
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Rate:
    """At most `per_minute` calls a minute for each name, as many at once; 0: as many as they like."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = float(per_minute), clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, name: str) -> float:
        """Takes a call of this name; 0, or the seconds after which it may be made."""
        if not self._most:
            return 0.0
        now, speed = self._clock(), self._most / 60.0
        left, then = self._left.get(name, (self._most, now))
        left = min(self._most, left + (now - then) * speed)
        allowed = left >= 1.0
        self._left[name] = (left - allowed, now)
        return 0.0 if allowed else (1.0 - left) / speed
