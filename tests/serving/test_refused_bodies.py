"""The refusal of a body names all wrong fields, their values and the remedies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answering.question import ChatRequest
from serving.campaigns.input import CampaignInput
from serving.errors import ApiError
from serving.http.bodies import decode_body, find_faults

BOOKED = {"name": "Kites", "bid_micros": 1, "currency": "EUR", "creatives": [{"title": "Kite", "landing_url": "x"}]}
CHAT = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "ads": {}}


def refused(body: Any, kind: Any) -> dict[str, str]:
    with pytest.raises(ApiError) as raised:
        decode_body(msgspec.json.encode(body), msgspec.json.Decoder(kind))
    error = raised.value.body()["error"]
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "invalid_value",
        error["fields"][0]["field"],
    )
    assert all(f"{f['field']}: {f['value']}: {f['remedy']}" in error["message"] for f in error["fields"])
    return {fault["field"]: fault["remedy"] for fault in error["fields"]}


@pytest.mark.parametrize(
    ("kind", "change", "field", "choices"),
    [
        (CampaignInput, {"state": "on"}, "state", ("active", "paused", "ended")),
        (CampaignInput, {"pricing": "view"}, "pricing", ("click", "impression", "participation")),
        (CampaignInput, {"pacing": 1}, "pacing", ("even", "asap")),
        (
            ChatRequest,
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages[0].role",
            ("system", "developer", "user", "assistant", "tool", "function"),
        ),
        (
            ChatRequest,
            {"response_format": {"type": "xml"}},
            "response_format.type",
            ("text", "json_object", "json_schema"),
        ),
    ],
)
def test_the_refusal_of_an_unknown_choice_lists_the_choices(
    kind: Any, change: dict[str, Any], field: str, choices: tuple[str, ...]
) -> None:
    remedies = refused((BOOKED if kind is CampaignInput else CHAT) | change, kind)
    assert list(remedies) == [field]
    assert all(choice in remedies[field] for choice in choices)


def test_unknown_missing_and_wrong_fields_are_named_together() -> None:
    wrong = BOOKED | {
        "colour": "red",
        "starts_at": "tomorrow",
        "targeting": {"contries": ["DE"], "languages": [1]},
        "dayparts": [{"days": [0], "til_hour": 3}, {"days": "Monday"}],
        "creatives": [{"title": "Kite"}, {"landing_url": "x", "image": "y"}],
        "campaign_caps": [{"impressions": 3}],
        "daily_budget_micros": 0.5,
    }
    del wrong["name"]
    assert set(refused(wrong, CampaignInput)) == {
        "name",
        "colour",
        "starts_at",
        "targeting.contries",
        "targeting.languages[0]",
        "dayparts[0].til_hour",
        "dayparts[1].days",
        "creatives[0].landing_url",
        "creatives[1].image",
        "creatives[1].title",
        "campaign_caps[0].hours",
        "daily_budget_micros",
    }


def test_a_value_of_the_wrong_type_gets_a_remedy() -> None:
    changes = {
        "daily_budget_micros": 0.5,
        "starts_at": "2026-11-29",
        "name": 7,
        "targeting": [],
        "creatives": [{"title": "Kite", "landing_url": None}],
        "campaign_caps": [{"impressions": "3", "hours": 1}],
    }
    assert refused(BOOKED | changes, CampaignInput) == {
        "daily_budget_micros": "give a whole number of micros: 1000000 is 1 unit of the currency",
        "starts_at": "give a time with its zone, such as 2026-11-29T09:00:00Z",
        "name": "give a string",
        "targeting": "give an object",
        "creatives[0].landing_url": "give a string",
        "campaign_caps[0].impressions": "give a whole number",
    }


def test_a_misspelt_field_gets_the_name_that_was_meant() -> None:
    remedies = refused(CHAT | {"ads": {"placment": "news", "xyz": 1}}, ChatRequest)
    assert remedies == {
        "ads.placment": "leave it out: it is not supported here; if you meant placement, rename it",
        "ads.xyz": "leave it out: it is not supported here",
    }


def test_a_repeated_key_whose_first_value_is_wrong_is_named() -> None:
    with pytest.raises(ApiError, match="model"):
        decode_body(b'{"model": 3, "model": "m", "messages": []}', msgspec.json.Decoder(ChatRequest))


def test_faults_are_bounded() -> None:
    assert len(refused(BOOKED | {f"field{n}": n for n in range(1_000)}, CampaignInput)) == 20


def test_unknown_query_parameters_are_named_together(shared: Any) -> None:
    error = shared.call("GET", "/v1/reports?colour=red&format=csv&size=3").json()["error"]
    assert [(f["field"], f["value"]) for f in error["fields"]] == [("colour", "'red'"), ("size", "'3'")]
    assert "group_by" in error["fields"][0]["remedy"]


NAMES = sorted({*CampaignInput.__struct_fields__, *ChatRequest.__struct_fields__, "role", "content", "type", "text"})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "user", "text", "active", "UTC", "2026-05-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from([CampaignInput, ChatRequest]), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
def test_faults_are_found_in_refused_bodies_only(kind: Any, change: dict[str, Any]) -> None:
    body = (BOOKED if kind is CampaignInput else CHAT) | change
    try:
        msgspec.convert(body, kind)
        fits = True
    except msgspec.ValidationError:
        fits = False
    assert (not list(find_faults(body, kind))) == fits
