"""Who a reader is, without saying who: a keyed hash stands for the user id in every event.

The key stays with the routers and whoever carries out an erasure; without it no pseudonym leads back to a person or can
be made for a known one.
"""

from __future__ import annotations

from hashlib import blake2b

from mechanism.errors import ConfigError

KEY_BYTES = 32


def pseudonym(user_id: str, key: bytes) -> str:
    """32 hexadecimal digits, the same for the same user under the same key; empty for the empty id."""
    if len(key) < KEY_BYTES:
        raise ConfigError("pseudonym key", f"<{len(key)} bytes>", f"give {KEY_BYTES} random bytes or more")
    if not user_id:
        return ""
    digest = blake2b(user_id.encode(errors="surrogatepass"), key=key[:64], digest_size=16, person=b"llm-auction user")
    return digest.hexdigest()
