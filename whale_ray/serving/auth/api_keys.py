"""API keys: name, SHA-256 digest and scopes of each key, read from a file or the environment.

A key itself is neither kept nor logged.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from whale_ray.errors import InputError

IDENTIFY, PROPOSE, ENROL = "identify", "propose", "enrol"
SCOPES = (IDENTIFY, PROPOSE, ENROL)
ENVIRONMENT = "environment"
MIN_KEY_LENGTH = 16


@dataclass(frozen=True)
class ApiKey:
    """An API key.

    Attributes:
        name: Name of the key in the access log.
        digest: SHA-256 of the key.
        scopes: Scopes of the key, out of `SCOPES`.
    """

    name: str
    digest: bytes
    scopes: frozenset[str]


@dataclass(frozen=True)
class ApiKeys:
    """All API keys of a service. It is false without keys: then every call is accepted."""

    keys: tuple[ApiKey, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def fingerprint(self) -> str:
        """A text that changes when any key changes; it reveals no key."""
        return " ".join(f"{key.name} {key.digest.hex()} {sorted(key.scopes)}" for key in self.keys)

    def find(self, key: str) -> ApiKey | None:
        """Return the entry of a key, or None, in a time that does not depend on the result."""
        digest, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for candidate in self.keys:
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        return found


NO_KEYS = ApiKeys()


def read_keys(file: Path | None, variable: str | None) -> ApiKeys:
    """Return the keys of a key file and of the environment.

    Args:
        file: Key file with a line `NAME SCOPE[,SCOPE] KEY` per key; only its owner may read it.
        variable: The key in WHALE_RAY_API_KEY; it has all scopes.

    Raises:
        InputError: If the file cannot be used; lists every wrong line and quotes no key.
    """
    keys = [ApiKey(ENVIRONMENT, _digest(variable, "the key of the environment"), frozenset(SCOPES))] if variable else []
    if file is None:
        return ApiKeys(tuple(keys))
    faults: list[str] = []
    for number, line in enumerate(_read_lines(file), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(_parse_key(line.split()))
        except InputError as error:
            faults.append(f"line {number}: {error}")
    names = [key.name for key in keys]
    faults += [
        f"the name {name!r} occurs twice. Give each key its own name"
        for name in sorted({*names})
        if names.count(name) > 1
    ]
    if not faults and not keys:
        faults = ["the file has no key. Write one key a line"]
    if faults:
        raise InputError(f"{file} must have one key a line, as `boat identify KEY`, but " + "; ".join(faults))
    return ApiKeys(tuple(keys))


def _read_lines(file: Path) -> list[str]:
    try:
        if file.stat().st_mode & 0o077:
            raise InputError(f"only its owner may read {file}, which holds keys, but others can. Type chmod 600 {file}")
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} must be a readable text file with keys, but: {error}") from None


def _parse_key(words: list[str]) -> ApiKey:
    if len(words) != 3:
        raise InputError(f"a line must have a name, scopes and a key, but this one has {len(words)} words")
    name, names, key = words
    scopes = frozenset(names.split(","))
    if not scopes <= set(SCOPES):
        raise InputError(f"a scope must be one of {', '.join(SCOPES)}, but {name} has {names!r}")
    return ApiKey(name, _digest(key, f"the key of {name}"), scopes)


def _digest(key: str, description: str) -> bytes:
    if len(key) < MIN_KEY_LENGTH:
        raise InputError(f"{description} must have at least {MIN_KEY_LENGTH} characters. Use `openssl rand -hex 24`")
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
