"""Session tokens: the signed cookie that a browser holds in place of an API key."""

from __future__ import annotations

import hashlib

from itsdangerous import BadSignature, TimestampSigner

from whale_ray.serving.auth.api_keys import ApiKey, ApiKeys

COOKIE = "whale_ray_session"
SESSION_SECONDS = 12 * 3600
_PAYLOAD = "session"


def create_session(key: ApiKey) -> str:
    """Return a token that authenticates as this key for `SESSION_SECONDS`.

    It is signed with the digest of the key, so every replica can verify it and a revoked key ends its sessions.
    """
    return _signer(key).sign(_PAYLOAD).decode()


def find_session_key(token: str, keys: ApiKeys) -> ApiKey | None:
    """Return the key of a session token.

    Args:
        token: Value of the session cookie.
        keys: Keys of the service.

    Returns:
        The key, or None if the token has expired or no key has signed it.
    """
    return next((key for key in keys.keys if _is_signed_by(key, token)), None)


def _is_signed_by(key: ApiKey, token: str) -> bool:
    try:
        return _signer(key).unsign(token, max_age=SESSION_SECONDS).decode() == _PAYLOAD
    except (BadSignature, UnicodeError):
        return False


def _signer(key: ApiKey) -> TimestampSigner:
    return TimestampSigner(key.digest, salt="whale_ray.session", digest_method=hashlib.sha256)
