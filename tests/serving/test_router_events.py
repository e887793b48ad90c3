"""The router's events: one interaction per answer, one click per followed link, personal data with consent only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import PolicyError
from mechanism.markers import render_marker
from mechanism.types import Context
from serving.answering.result import AnswerResult
from serving.campaigns.types import Pricing
from serving.errors import Overloaded
from serving.settings import PSEUDONYMS, derived
from streaming.codec import encode
from streaming.embedded import EmbeddedLog
from streaming.embedded.producer import EmbeddedProducer
from streaming.log import LogUnavailable
from streaming.pseudonyms import pseudonym
from streaming.topics import CLICKS, INTERACTIONS

Start = Callable[..., Any]
SECRET = b"a secret of the tests, long enough for one"
READER = {"user_id": "reader-4711", "profile": {"location": "Timbuktu", "interests": ["xylophones"]}}


def test_an_answer_leaves_one_event_with_its_auction(start: Start) -> None:
    router = start("Try {A2} today. ", "Or {A3}.")
    answer = router.ask(ads={"consent": True, "max_ads": 1, "placement": "chat", **READER})
    (event,) = router.logged(INTERACTIONS)
    assert event.auction_id == answer["auction"]["auction_id"]
    assert (event.outcome, event.placement, event.currency, event.finished) == ("answered", "chat", "EUR", True)
    record = router.call("GET", f"/v1/auctions/{event.auction_id}").json()
    assert [c.ad_id for c in event.candidates] == [c["ad_id"] for c in record["candidates"]]
    assert {c.ad_id: c.bid_micros for c in event.candidates} == {f"A{n}": n * 100_000 for n in range(1, 7)}
    assert [(s.ad_id, s.pricing, s.price_micros) for s in event.shown] == [("A2", "click", 200_000)]
    assert event.left_out == ("A3",)
    assert (event.model_digest, event.model_version, event.logprob) == ("0" * 64, "0" * 16, -1.5)
    assert [sum(m.probabilities.values()) for m in event.markers] == [pytest.approx(1)]
    assert event.first_token_s is not None
    reader = event.reader
    assert reader.user_id == pseudonym("reader-4711", derived(SECRET, PSEUDONYMS))
    assert (reader.query, reader.profile.location) == ("Good running shoes?", "Timbuktu")
    assert reader.text == "Try Brand2 Coffee Beans today. "
    (span,) = reader.spans
    assert reader.text[span.start : span.end] == "Brand2 Coffee Beans"
    assert "@[A3]" in reader.raw
    context, generation = event.context(), event.generation()
    assert context.bids() == event.bids()
    assert generation.answer.shown() == ("A2",)


def test_without_consent_no_personal_data_is_logged(start: Start) -> None:
    router = start("Try {A2}.")
    turns = [("user", "zanzibar before"), ("assistant", "zanzibar answer"), ("user", "zanzibar now")]
    messages = [{"role": role, "content": text} for role, text in turns]
    router.ask(messages=messages, ads={"consent": False, **READER})
    (event,) = router.logged(INTERACTIONS)
    assert (event.consent, event.reader) == (False, None)
    data = encode(event)
    for word in (b"zanzibar", b"reader-4711", b"Timbuktu", b"xylophones"):
        assert word not in data


def test_with_consent_and_without_an_id_the_reader_has_no_pseudonym(start: Start) -> None:
    router = start("Hello.")
    router.ask(ads={"consent": True})
    (event,) = router.logged(INTERACTIONS)
    assert (event.reader.user_id, event.reader.profile, event.reader.text) == ("", None, "Hello.")


def test_a_followed_link_is_one_click_event_with_its_validity(start: Start) -> None:
    router = start("Try {A1}. Or {A2}.")
    first, second = router.ask()["ads"]
    router.click(first["click_url"])
    router.click(second["click_url"], headers={"User-Agent": "Googlebot/2.1"})
    events = {event.ad_id: event for event in router.logged(CLICKS)}
    (shown,) = router.logged(INTERACTIONS)
    assert {event.auction_id for event in events.values()} == {shown.auction_id}
    assert (events["A1"].verdict, events["A1"].price_micros) == ("valid", 100_000)
    assert (events["A2"].verdict, events["A2"].reason) == ("invalid", "bot")
    router.wait_until_charged()
    assert router.revenue() == {"EUR": 100_000}


def test_failed_answers_and_answers_without_ads_leave_events(start: Start) -> None:
    def failing(context: Context) -> Iterator[str]:
        yield ""
        raise PolicyError("broken")

    router = start(script=failing)
    assert router.post().status_code >= 500
    assert router.post(ads={"enabled": False}).status_code >= 500
    events = router.logged(INTERACTIONS)
    assert {event.outcome for event in events} == {"failed"}
    assert all(not event.shown and event.logprob is None for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_answer_has_shown_its_ad_in_a_stream_only(start: Start, stream: bool) -> None:
    def script(context: Context) -> Iterator[str]:
        yield f"Try {render_marker(context.candidates[0].ad)}. And then. And "
        raise Overloaded("too much")

    router = start(script=script)
    assert router.post(stream=stream).status_code == (200 if stream else 503)
    (event,) = router.logged(INTERACTIONS)
    assert (event.outcome, len(event.shown)) == ("failed", 1 if stream else 0)


def test_payments_without_a_click_are_part_of_the_event(start: Start) -> None:
    router = start("Try {A1}. Or {A2}.")
    for number, pricing in ((1, "impression"), (3, "participation")):
        path = f"/v1/campaigns/catalogue-A{number}"
        body = {"pricing": pricing, "version": router.call("GET", path).json()["version"]}
        answer = router.call("PATCH", path, json=body)
        assert answer.status_code == 200, answer.text
    fresh = {"catalogue-A1": Pricing.IMPRESSION, "catalogue-A3": Pricing.PARTICIPATION}
    index = router.router.marketplace.index
    while any(index.get(name).pricing is not pricing for name, pricing in fresh.items()):
        pass
    answer = router.ask()
    (event,) = router.logged(INTERACTIONS)
    prices = {ad.ad_id: (ad.pricing, ad.price_micros) for ad in event.shown}
    assert prices["A2"] == ("click", 200_000)
    assert prices["A1"][0] == "impression"
    assert 0 < prices["A1"][1] < 100_000
    (part,) = event.participations
    assert (part.ad_id, part.price_micros > 0) == ("A3", True)
    router.wait_until_charged()
    assert router.revenue() == {"EUR": prices["A1"][1] + part.price_micros}
    assert answer["ads"][0]["pricing"] == "impression"


class UnavailableLog(EmbeddedLog):
    """A log that cannot be written."""

    def producer(self) -> EmbeddedProducer:
        raise LogUnavailable("the log is down")


def test_answers_and_clicks_continue_while_the_log_is_down_and_are_sent_later(
    router: Callable[..., Any], scripted: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.router.open_log", lambda address: UnavailableLog(Path(address)))
        with router(tmp_path, scripted("Try {A2}.")) as running:
            answer = running.ask()
            assert running.click(answer["ads"][0]["click_url"]).status_code == 302
    with router(tmp_path, scripted("Try {A2}.")) as running:
        (event,) = running.logged(INTERACTIONS)
        assert event.auction_id == answer["auction"]["auction_id"]
        running.wait_until_charged()
        assert running.revenue() == {"EUR": 200_000}


def test_the_log_can_be_read_after_the_router_has_stopped(
    router: Callable[..., Any], scripted: Callable[..., Any], tmp_path: Path
) -> None:
    with router(tmp_path, scripted("Try {A2}.")) as running:
        (ad,) = running.ask()["ads"]
        running.click(ad["click_url"])
        folder = running.settings.state_dir / "log"
    shutil.copytree(folder, tmp_path / "copy")
    log = EmbeddedLog(tmp_path / "copy")
    with log.consumer("", [INTERACTIONS, CLICKS]) as consumer:
        assert {record.topic for record in consumer.poll(1.0)} == {INTERACTIONS, CLICKS}
    log.close()


def test_an_answer_that_cannot_be_finalised_is_still_sent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    router = start("Hello.")
    monkeypatch.setattr(AnswerResult, "faults", property(lambda _: 1 / 0))
    assert router.ask()["choices"][0]["message"]["content"] == "Hello."
