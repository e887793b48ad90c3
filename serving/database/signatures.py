"""Signed texts that clients hold and send back: an HMAC over a purpose and the text, under one key or several.

The newest key signs, all verify. A text is not hidden, only protected from change.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

MAC_BYTES = 16


class Signer:
    """Signs and verifies under `keys`, newest first."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    def sign(self, purpose: str, data: bytes) -> str:
        """Return the signed data as text that is safe in a URL; it verifies for this purpose alone."""
        return base64.urlsafe_b64encode(_mac(self._keys[0], purpose, data) + data).decode("ascii")

    def verify(self, purpose: str, text: str) -> bytes | None:
        """Return the data of a signed text; None if it was not signed here for this purpose, or was changed."""
        try:
            signed = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        if base64.urlsafe_b64encode(signed).decode("ascii") != text:
            return None  # another spelling of the same bytes
        mac, data = signed[:MAC_BYTES], signed[MAC_BYTES:]
        # All keys are tried, so that the time does not show which one signed.
        valid = [hmac.compare_digest(mac, _mac(key, purpose, data)) for key in self._keys]
        return data if any(valid) else None


def _mac(key: bytes, purpose: str, data: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + data, hashlib.sha256)[:MAC_BYTES]
