"""What people see: the HTML page, its plots, the terminal table and the Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.trainers.evaluation_report import made_up_report, made_up_sample
from trainers.evaluation.page import MAX_EPOCHS, plots, render_html, segments
from trainers.evaluation.report import Allocation, Compared, Epoch, Figure, Property, Report, Sample, ShownAd
from trainers.evaluation.text import headline, number, print_report, ratio_words, span, verdict

HOSTILE = "</p><script>alert('x')</script><img src=x onerror=alert(1)> {{ 7*7 }} {% raw %} \u202e & \"quoted\""


@pytest.fixture(scope="module")
def report() -> Report:
    return made_up_report()


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_html(report)


class Outline(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_stands_alone(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "link", "img", "iframe", "object", "a", "form"} & set(outline.tags)
    references = [v for k, v in outline.attributes if k in ("src", "href", "xlink:href", "action") and v]
    assert all(v.startswith("#") for v in references)
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert outline.tags.count("svg") == 4


def test_no_id_is_used_twice_and_every_reference_has_its_target(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', page)) <= set(ids)


def test_the_page_says_what_was_measured(page: str, report: Report) -> None:
    text = " ".join(Outline(page).words)
    for words in ("Revenue per query", "LLM-Auction, learned pCTR", "paper: 2.67×", "✓ holds", report.meta.command):
        assert words in text
    ratio = report.ratios["mosaic_20"]["revenue_per_query"].ratio
    assert ratio is not None
    assert number(ratio.mean, 2) + "×" in text
    assert "0 of 12\u202f000 charges" in text
    assert "difference: the rival" in text


def test_hostile_text_stays_text(report: Report) -> None:
    sample = made_up_sample("llm_auction", title=HOSTILE, query=HOSTILE)
    meta = report.meta.model_copy(update={"config": HOSTILE, "base": HOSTILE, "command": HOSTILE, "digest": HOSTILE})
    page = render_html(report.model_copy(update={"samples": (sample,), "meta": meta}))
    outline = Outline(page)
    assert not {"script", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    text = "".join(outline.words)
    assert text.count(HOSTILE) >= 6
    assert "<script>alert" not in page


@settings(max_examples=25)
@given(st.text(min_size=1, max_size=60), st.text(max_size=60))
def test_any_answer_comes_out_as_it_went_in(title: str, rest: str) -> None:
    sample = Sample(
        query="q",
        method="mosaic_20",
        text=rest + title + rest,
        ads=(ShownAd(id="a", title=title, start=len(rest), end=len(rest) + len(title)),),
    )
    parts = segments(sample)
    assert "".join(text for text, _ in parts) == sample.text
    assert [text for text, ad in parts if ad] == [title]


def test_what_was_not_measured_has_no_section(report: Report) -> None:
    bare = Report(meta=report.meta, methods={"gsp": report.methods["gsp"]})
    text = " ".join(Outline(render_html(bare)).words)
    assert "GSP" in text
    for words in ("MOSAIC", "Oracle", "Curves", "Properties", "Sample answers", "over its rivals", "×"):
        assert words not in text
    assert plots(bare) == {}
    assert "How this was measured" in " ".join(Outline(render_html(Report(meta=report.meta, methods={}))).words)


def test_a_failed_property_reads_as_failed(report: Report) -> None:
    broken = report.properties["monotonicity"].model_copy(update={"holds": False})
    text = " ".join(Outline(render_html(report.model_copy(update={"properties": {"monotonicity": broken}}))).words)
    assert "does not hold" in text


@pytest.mark.parametrize("name", ["monotonicity", "continuity", "individual_rationality", "value_maximiser_ic"])
def test_a_headline_interval_alone_is_still_worded(name: str) -> None:
    assert verdict(name, Property(mean=0.5, lo=0.25, hi=None, holds=True)) == "Measured 0.5000 (at least 0.2500)."


def test_plots_are_well_formed_named_and_readable_in_the_dark(report: Report) -> None:
    for name, svg in plots(report).items():
        root = ElementTree.fromstring(svg)
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert title.text
        assert f"plot-{name}" in root.attrib["class"]
        assert "prefers-color-scheme:dark" in svg
        # No colour but those that have a dark variant.
        bare = re.sub(r"var\(--c\w+,#\w{6}\)|<style>.*?</style>", "", svg, flags=re.DOTALL)
        assert not re.search(r"#[0-9a-f]{6}", bare)
    words = "".join(ElementTree.fromstring(plots(report)["learning"]).itertext())
    for label in ("Revenue per query (bid points)", "Reward per query", "Epoch", "MOSAIC", "pretrained"):
        assert label in words


def test_plots_are_the_same_for_the_same_report(report: Report) -> None:
    assert plots(report) == plots(report)


def test_of_many_epochs_the_first_the_last_and_some_between_are_drawn(report: Report) -> None:
    band = {"mean": (0.1, 0.2), "lo": (0.0, 0.1), "hi": (0.2, 0.3)}
    many = Allocation.model_validate({"bids": (1, 100), "epochs": {str(k): band for k in range(23)}})
    words = "".join(
        ElementTree.fromstring(plots(report.model_copy(update={"allocation": many}))["allocation"]).itertext()
    )
    drawn = re.findall(r"epoch (\d+)", words)
    assert len(drawn) == MAX_EPOCHS
    assert {"0", "22"} <= set(drawn)


def test_epochs_without_figures_and_one_epoch_alone_are_drawn(report: Report) -> None:
    for epochs in ((Epoch(epoch=0),), (Epoch(epoch=1, revenue_per_query=3.0),)):
        assert "learning" in plots(report.model_copy(update={"epochs": epochs}))


def test_the_table_fits_a_hundred_columns_uncut(report: Report) -> None:
    console = Console(width=100, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        print_report(report, console)
    shown = capture.get()
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 100
    assert "…" not in shown
    for words in ("LLM-Auction", "oracle", "revenue/query", "seconds/query", "holds"):
        assert words in shown


def test_numbers_read_well() -> None:
    assert number(-9.44, 1) == "\N{MINUS SIGN}9.4"
    assert number(-0.001, 1) == "0.0"
    assert number(12345.0, 0) == "12\u202f345"
    assert number(None, 1) == "\N{EN DASH}"
    assert span(Figure(mean=2, lo=1, hi=None), 1) == "at least 1.0"
    assert span(Figure(mean=1, lo=1, hi=1), 1) == ""
    no_ratio = Compared(ratio=None, difference=Figure(mean=3.0, lo=-1.0, hi=7.0))
    assert ratio_words(no_ratio) == ("+3.00", "\N{MINUS SIGN}1.00 to 7.00")


def test_the_first_line_names_who_is_ahead(report: Report) -> None:
    first = headline(report)
    assert "ahead of the best rival of one generation, GSP" in first
    assert "of the attainable optimum" in first
    assert first in " ".join(Outline(render_html(report)).words)
    ours, gsp = report.ratios["gsp"]["reward_per_query"], report.ratios["gsp"]
    assert ours.difference is not None
    for bounds, words in (((-9.0, -4.0), "behind"), ((-4.0, 2.0), "not separated from")):
        found = Compared(ratio=None, difference=Figure(mean=bounds[0] / 2 + bounds[1] / 2, lo=bounds[0], hi=bounds[1]))
        changed = {**report.ratios, "gsp": {**gsp, "reward_per_query": found}}
        assert f"{words} the best rival" in headline(report.model_copy(update={"ratios": changed}))
    assert headline(made_up_report(("llm_auction",))) == ""
