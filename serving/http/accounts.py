"""`/v1/accounts`, `/v1/payments` and `/v1/statements`: what advertisers have paid in, owe, and may still spend.

Administrators set credit limits and enter payments; an advertiser reads its own.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import structlog
from litestar import Response, get, post, put
from litestar.handlers import HTTPRouteHandler

from mechanism.types import Micros
from serving.accounts.advertisers import named_account
from serving.accounts.keys import Role
from serving.http.auth import READERS, Gate
from serving.http.bodies import (
    Format,
    HttpRequest,
    choice,
    csv_response,
    decode_body,
    json_response,
    number,
    only,
)
from serving.http.documents import documented
from serving.reports.statements import statements, statements_csv
from serving.router import Router

log = structlog.get_logger(__name__)

_LISTED = {
    "advertiser_id": "administrators only",
    "limit": "1 to 1000",
    "cursor": "`cursor` of the previous page",
}
_STATEMENT = {
    "month": "such as 2026-11, in UTC; this month if left out",
    "advertiser_id": "administrators only",
    "format": "json or csv",
}


class AccountInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account's credit limit in micros of its currency: 0 for prepaid, null for unlimited credit."""

    advertiser_id: str
    currency: str
    credit_limit_micros: Micros | None


class PaymentInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payment, entered once by its `reference`; a negative amount takes one back that was entered by mistake."""

    advertiser_id: str
    currency: str
    micros: int
    reference: str


_ACCOUNT = msgspec.json.Decoder(AccountInput)
_PAYMENT = msgspec.json.Decoder(PaymentInput)


def account_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of accounts and payments."""
    store = router.advertisers

    @put("/v1/accounts", status_code=200, opt=documented(AccountInput, answer="The account as it stands."))
    async def set_account(request: HttpRequest) -> Response[bytes]:
        """Set the credit limit of an advertiser's account."""
        caller = await gate.caller(request, Role.ADMIN)
        given = decode_body(await request.body(), _ACCOUNT)
        account = named_account(given.advertiser_id, given.currency)
        limit, now = given.credit_limit_micros, datetime.now(UTC)
        stored = await asyncio.to_thread(store.set_limit, account, limit, now, caller.actor)
        log.info("account.limit_set", advertiser_id=account.advertiser_id, currency=account.currency)
        return json_response(stored)

    @get("/v1/accounts", opt=documented(query=_LISTED, answer="Accounts by advertiser, and the next cursor."))
    async def list_accounts(request: HttpRequest) -> Response[bytes]:
        """List accounts: an administrator's all, an advertiser's own."""
        caller, asked = await gate.caller(request, *READERS), request.query_params
        only(asked, set(_LISTED))
        limit = number(asked, "limit", 100, 1, 1_000)
        owner = caller.owner(asked.get("advertiser_id", ""))
        return json_response(await asyncio.to_thread(store.accounts, owner, asked.get("cursor", ""), limit))

    @post("/v1/payments", status_code=201, opt=documented(PaymentInput, answer="The payment, and the account with it."))
    async def enter_payment(request: HttpRequest) -> Response[bytes]:
        """Enter a payment; the same one again is a 200 and changes nothing."""
        caller = await gate.caller(request, Role.ADMIN)
        given = decode_body(await request.body(), _PAYMENT)
        account = named_account(given.advertiser_id, given.currency)
        payment, stored, new = await asyncio.to_thread(
            store.pay, account, given.micros, given.reference, datetime.now(UTC), caller.actor
        )
        if new:
            log.info("account.paid", advertiser_id=account.advertiser_id, reference=payment.reference)
        return json_response({"payment": payment, "account": stored}, 201 if new else 200)

    @get("/v1/payments", opt=documented(query=_LISTED, answer="Payments, newest first, and the next cursor."))
    async def list_payments(request: HttpRequest) -> Response[bytes]:
        """List payments: an administrator's all, an advertiser's own."""
        caller, asked = await gate.caller(request, *READERS), request.query_params
        only(asked, set(_LISTED))
        limit = number(asked, "limit", 100, 1, 1_000)
        owner = caller.owner(asked.get("advertiser_id", ""))
        return json_response(await asyncio.to_thread(store.payments, owner, asked.get("cursor", ""), limit))

    @get("/v1/statements", opt=documented(query=_STATEMENT, answer="A month of each account, and its balances."))
    async def read_statements(request: HttpRequest) -> Response[bytes]:
        """Read the statements of a month: an administrator's all, an advertiser's own."""
        caller, asked = await gate.caller(request, *READERS), request.query_params
        only(asked, set(_STATEMENT))
        owner, kind, now = (
            caller.owner(asked.get("advertiser_id", "")),
            choice(asked, "format", Format),
            datetime.now(UTC),
        )
        month = asked.get("month", f"{now:%Y-%m}")
        lines = await asyncio.to_thread(statements, router.database, month, now, owner)
        if kind is Format.CSV:
            return csv_response(statements_csv(lines), f"statements-{month}.csv")
        return json_response({"lines": lines})

    return [set_account, list_accounts, enter_payment, list_payments, read_statements]
