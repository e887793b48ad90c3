"""The report survives writing and reading, holds nothing that was not measured, and names what is wrong with a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import InputError
from mechanism.statistics import Interval
from tests.trainers.evaluation_report import LEVELS, made_up_report, made_up_sample
from trainers.evaluation.harness import machine_summary, package_versions
from trainers.evaluation.metrics import METRICS
from trainers.evaluation.page import write_report
from trainers.evaluation.report import Figure, Report, Sample, ShownAd, encode_report, parse_report, read_report


@pytest.fixture(scope="module")
def report() -> Report:
    return made_up_report()


def test_a_written_report_is_read_back_as_it_was(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "new" / "folder")
    assert read_report(tmp_path / "new" / "folder") == report
    assert read_report(tmp_path / "new" / "folder" / "report.json") == report
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["report.html", "report.json"]


def test_a_report_is_written_to_any_file_system_and_over_an_older_one(report: Report) -> None:
    for _ in range(2):
        write_report(report, "memory://runs/a")
    assert read_report("memory://runs/a") == report


def test_the_json_has_the_agreed_names(report: Report) -> None:
    data = json.loads(encode_report(report))
    assert set(data["methods"]) == set(LEVELS)
    for figures in data["methods"].values():
        assert tuple(figures) == METRICS
        assert all(set(figure) == {"mean", "lo", "hi"} for figure in figures.values())
    assert set(data["properties"]) == {
        "monotonicity",
        "continuity",
        "individual_rationality",
        "value_maximiser_ic",
        "exploitability",
        "new_titles",
    }
    assert data["ratios"]["pretrained"]["reward_per_query"]["ratio"] is None
    assert data["ratios"]["pretrained"]["reward_per_query"]["difference"]["mean"] > 0
    assert data["ratios"]["mosaic_20"]["revenue_per_query"]["ratio"]["mean"] > 1
    assert data["epochs"][2]["pairs"] == 902
    assert data["epochs"][0]["pctr_auc"] is None
    assert data["train_seconds"] == 548.0


def test_methods_that_did_not_run_are_absent() -> None:
    data = json.loads(encode_report(made_up_report(("pretrained", "gsp"))))
    assert set(data["methods"]) == {"pretrained", "gsp"}
    assert data["ratios"] == {}


def test_unbounded_and_undefined_figures_become_null() -> None:
    assert Figure.of(Interval(2.0, 1.0, math.inf)).model_dump() == {"mean": 2.0, "lo": 1.0, "hi": None}
    assert Figure.of(Interval(math.nan, math.nan, math.nan)).model_dump() == {"mean": None, "lo": None, "hi": None}


def spoil(report: Report, *path: str | int, value: Any) -> str:
    data = json.loads(encode_report(report))
    part = data
    for step in path[:-1]:
        part = part[step]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("methods", "mosaic_20", "ctr", "mean"), "high", "methods.mosaic_20.ctr.mean: 'high'"),
        (("methods", "mosaic_20", "ctr", "lo"), 0.99, r"methods.mosaic_20.ctr: .*lo <= mean <= hi"),
        (("methods", "mosaic_20", "ctr"), ..., "methods.mosaic_20: .*lacks ctr"),
        (("methods", "magic"), {}, "methods.magic: 'magic'.*unknown name"),
        (("methods", "mosaic_20", "profit"), {"mean": 1, "lo": 1, "hi": 1}, "methods.mosaic_20.profit: 'profit'"),
        (("properties", "continuity", "holds"), ..., r"properties.continuity.holds: .*absent"),
        (("properties", "fairness"), {"mean": 1, "lo": 1, "hi": 1, "holds": True}, "properties.fairness"),
        (("epochs", 1, "epoch"), -1, "epochs.1.epoch: -1"),
        (("epochs", 1, "pairs"), "many", "epochs.1.pairs: 'many'"),
        (("allocation", "epochs", "2", "hi"), [0.1], "allocation: .*epochs.2.hi has 1 values, bids has 11"),
        (("continuity_curve", "error"), [], "continuity_curve: .*error has 0 values"),
        (("calibration", "observed", 0), 1.4, "calibration.observed.0: 1.4"),
        (("samples", 0, "ads", 0, "end"), 10_000, "samples.0: .*outside the text"),
        (("samples", 0, "method"), "magic", "samples.0.method: 'magic'"),
        (("meta", "command"), ..., r"meta.command: .*absent"),
        (("extra",), 1, "extra: 1"),
    ],
)
def test_a_spoiled_report_is_refused_with_its_field(
    report: Report, path: tuple[str | int, ...], value: Any, named: str
) -> None:
    with pytest.raises(InputError, match=f"r.json: {named}"):
        parse_report(spoil(report, *path, value=value), "r.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_json_are_refused(report: Report, number: str) -> None:
    with pytest.raises(InputError, match="train_seconds"):
        parse_report(encode_report(report).replace("548.0", number), "r.json")


def test_a_file_that_is_no_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no report here"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{\n"meta": oops', "utf-8")
    with pytest.raises(InputError, match=r"report.json:2"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="UTF-8"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[]", "utf-8")
    with pytest.raises(InputError, match="report"):
        read_report(tmp_path)


def test_a_sample_keeps_its_ads_in_place_and_apart() -> None:
    sample = made_up_sample("mosaic_20")
    ad = sample.ads[0]
    assert sample.text[ad.start : ad.end] == ad.title
    assert (ad.bid, ad.ctr) == (64.0, 0.46)
    with pytest.raises(ValueError, match="overlaps"):
        Sample(
            query="q",
            method="mosaic_20",
            text="abcdef",
            ads=(ShownAd(id="a", title="abc", start=0, end=3), ShownAd(id="b", title="cd", start=2, end=4)),
        )


def test_the_machine_is_described_by_its_kind() -> None:
    machine = machine_summary()
    assert machine.cores >= 1
    assert machine.cpu
    import platform

    assert platform.node() not in machine.cpu
    assert {"python", "numpy"} <= set(package_versions())
