"""What crosses between the router and a policy on Triton: tensor names, JSON records, error codes. No torch, no Triton.

Server and client both read this file, so the interface is written down once. One request is one answer. Input REQUEST:
a string [1], the JSON of `PolicyRequest`. Outputs of every response: TEXT, a string [1] with the next raw text
(markers included), and COMPLETED, a string [1] that is empty until the last response, which carries the JSON of
`serving.policies.protocol.Completed`. An error is a Triton error whose message is the JSON of `WireError`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from mechanism.errors import AuctionError, InputError, PolicyError
from mechanism.types import Context
from serving.policies.protocol import Completed

VERSION: Literal[1] = 1
"""Of the interface; a server refuses requests of any other."""

REQUEST = "REQUEST"
TEXT = "TEXT"
COMPLETED = "COMPLETED"

DIGEST_PARAMETER = "weights_sha256"
"""Model parameter: sha256 of the weights as `digest_of` folds it; the server checks its files against it on loading."""


class PolicyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One generation: the context with its bids, the seed, and the most ads that the answer may hold."""

    context: Context
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    max_ads: Annotated[int, msgspec.Meta(ge=0)]
    version: Literal[1] = VERSION


class WireError(msgspec.Struct, frozen=True):
    """Why there is no answer. `code`: "input" (the context cannot be answered), "overloaded" (every slot and the queue
    are taken) or "policy" (the model failed). `place` and `value` as in InputError; `remedy` says what to do."""

    code: Literal["input", "overloaded", "policy"]
    remedy: str
    place: str = ""
    value: str = ""


class QueueFull(PolicyError):
    """The model's slots and its queue are taken; nothing was generated."""


def model_name(digest: str) -> str:
    """The name on Triton of the model with these weights."""
    return f"policy-{digest[:12]}"


def encode_request(context: Context, seed: int, max_ads: int) -> bytes:
    """The REQUEST tensor's string."""
    return msgspec.json.encode(PolicyRequest(context, seed, max_ads))


def decode_request(data: bytes) -> PolicyRequest:
    """Reads a REQUEST. Raises InputError; its text names the field, never a user's words."""
    try:
        return msgspec.json.decode(data, type=PolicyRequest)
    except msgspec.DecodeError as error:  # a ValidationError is one
        raise InputError(REQUEST, f"<{len(data)} bytes>", f"{error}; fields: serving/policies/triton/wire.py") from None


def encode_completed(done: Completed) -> bytes:
    """The COMPLETED tensor's string in the last response."""
    return msgspec.json.encode(done)


def decode_completed(data: bytes) -> Completed:
    """Reads a COMPLETED. Raises PolicyError for one that another version of the interface wrote."""
    try:
        return msgspec.json.decode(data, type=Completed)
    except msgspec.DecodeError as error:
        raise PolicyError(f"the model's last words cannot be read ({error}): build it again") from None


def encode_error(error: AuctionError) -> str:
    """The message of a Triton error."""
    if isinstance(error, InputError):
        value = error.value if isinstance(error.value, str) else repr(error.value)
        fault = WireError("input", error.remedy, error.place, value)
    else:
        fault = WireError("overloaded" if isinstance(error, QueueFull) else "policy", str(error))
    return msgspec.json.encode(fault).decode()


def decode_error(message: str) -> AuctionError | None:
    """The error that a message of `encode_error` stands for, or None where Triton itself wrote the message."""
    begin = message.find('{"code":')
    if begin < 0:
        return None
    try:
        fault = msgspec.json.decode(message[begin:].encode(), type=WireError)
    except msgspec.DecodeError:
        return None
    if fault.code == "input":
        return InputError(fault.place, fault.value, fault.remedy)
    return QueueFull(fault.remedy) if fault.code == "overloaded" else PolicyError(fault.remedy)
