"""Pseudonyms of readers: a keyed hash replaces the user id in every event.

Only the routers and the operators who erase readers hold the key. Without it a pseudonym cannot be traced to a person,
and none can be computed for a known user id.
"""

from __future__ import annotations

from hashlib import blake2b

from mechanism.errors import ConfigError

KEY_BYTES = 32


def pseudonym(user_id: str, key: bytes) -> str:
    """Return 32 hexadecimal digits, the same for the same user under the same key; empty for the empty id.

    Raises:
        ConfigError: if the key is shorter than KEY_BYTES.
    """
    if len(key) < KEY_BYTES:
        raise ConfigError("pseudonym key", f"<{len(key)} bytes>", f"give {KEY_BYTES} random bytes or more")
    if not user_id:
        return ""
    digest = blake2b(user_id.encode(errors="surrogatepass"), key=key[:64], digest_size=16, person=b"llm-auction user")
    return digest.hexdigest()
