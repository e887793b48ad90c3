"""The interface between the router and a policy on Triton: tensor names, JSON records, error codes. Without torch.

One request is one answer. Input REQUEST: a string [1], the JSON of `PolicyRequest`. Outputs of every response: TEXT, a
string [1] with the next raw text (markers included), and COMPLETED, a string [1] that is empty until the last response,
which carries the JSON of `serving.policies.protocol.Completed`. An error is a Triton error whose message is the JSON of
`WireError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from mechanism.errors import AuctionError, InputError, PolicyError
from mechanism.types import Context
from serving.policies.protocol import OWN_LIMITS, AdapterAbsent, AnswerLimits, Completed

VERSION: Literal[1] = 1
"""Version of the interface; a server refuses requests of another one."""

REQUEST = "REQUEST"
TEXT = "TEXT"
COMPLETED = "COMPLETED"

DIGEST_PARAMETER = "weights_sha256"
"""Model parameter: digest of the weights (`mechanism.weights`), which the server compares with its files on loading."""


ADAPTERS = "adapters"
"""Folder beside a model's weights with the adapters on it, each in a folder of the first 12 digits of its digest."""
Code = Literal["input", "overloaded", "absent", "policy"]


class PolicyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One generation: the context with its bids, the seed, and the largest number of ads in the answer.

    `asked` are the request's limits, sent where it has any: a server that is older than they are refuses such requests.
    `adapter` is the digest of the version's weights where these are an adapter on the model's; empty: the model's own.
    """

    context: Context
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    max_ads: Annotated[int, msgspec.Meta(ge=0)]
    version: Literal[1] = VERSION
    asked: AnswerLimits | msgspec.UnsetType = msgspec.UNSET
    adapter: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] | msgspec.UnsetType = msgspec.UNSET

    @property
    def limits(self) -> AnswerLimits:
        """The request's limits; the policy's own where none were sent."""
        return OWN_LIMITS if self.asked is msgspec.UNSET else self.asked


class WireError(msgspec.Struct, frozen=True):
    """Why there is no answer.

    `code`: "input" (the context cannot be answered), "overloaded" (slots and queue are full), "absent" (the adapter is
    not here) or "policy" (the model failed). `place`, `value` and `remedy` as in InputError.
    """

    code: Code
    remedy: str
    place: str = ""
    value: str = ""


class QueueFull(PolicyError):
    """The model's slots and its queue are full; nothing was generated."""


KINDS: Mapping[Code, type[PolicyError]] = {"overloaded": QueueFull, "absent": AdapterAbsent, "policy": PolicyError}
"""The errors without a place, the particular ones first."""


def model_name(digest: str) -> str:
    """Return the name on Triton of the model with these weights."""
    return f"policy-{digest[:12]}"


def encode_request(
    context: Context, seed: int, max_ads: int, limits: AnswerLimits = OWN_LIMITS, adapter: str = ""
) -> bytes:
    """Encode the REQUEST tensor's string."""
    asked = msgspec.UNSET if limits == OWN_LIMITS else limits
    request = PolicyRequest(context, seed, max_ads, asked=asked, adapter=adapter or msgspec.UNSET)
    return msgspec.json.encode(request)


def decode_request(data: bytes) -> PolicyRequest:
    """Decode a REQUEST.

    Raises:
        InputError: if it is not valid; the text names the field and never quotes the question.
    """
    try:
        return msgspec.json.decode(data, type=PolicyRequest)
    except msgspec.DecodeError as error:  # a ValidationError is one
        raise InputError(REQUEST, f"<{len(data)} bytes>", f"{error}; fields: serving/policies/triton/wire.py") from None


def encode_completed(done: Completed) -> bytes:
    """Encode the COMPLETED tensor's string of the last response."""
    return msgspec.json.encode(done)


def decode_completed(data: bytes) -> Completed:
    """Decode a COMPLETED.

    Raises:
        PolicyError: if another version of the interface wrote it.
    """
    try:
        return msgspec.json.decode(data, type=Completed)
    except msgspec.DecodeError as error:
        raise PolicyError(f"the model's last response cannot be read ({error}): build the model again") from None


def encode_error(error: AuctionError) -> str:
    """Encode the message of a Triton error."""
    if isinstance(error, InputError):
        value = error.value if isinstance(error.value, str) else repr(error.value)
        fault = WireError("input", error.remedy, error.place, value)
    else:
        found: Code = next((code for code, kind in KINDS.items() if isinstance(error, kind)), "policy")
        fault = WireError(found, str(error))
    return msgspec.json.encode(fault).decode()


def decode_error(message: str) -> AuctionError | None:
    """Decode a message of `encode_error`; return None for a message of Triton's own."""
    begin = message.find('{"code":')
    if begin < 0:
        return None
    try:
        fault = msgspec.json.decode(message[begin:].encode(), type=WireError)
    except msgspec.DecodeError:
        return None
    if fault.code == "input":
        return InputError(fault.place, fault.value, fault.remedy)
    return KINDS[fault.code](fault.remedy)
