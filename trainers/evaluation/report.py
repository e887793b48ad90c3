"""The report of an evaluation: its schema, and `report.json` read and checked.

A figure that was not measured is absent or null. Measuring is left to `harness`, wording to `text`, drawing and
`report.html` to `page`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

import fsspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mechanism.errors import InputError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import Interval
from mechanism.types import Answer, Context
from trainers.artifacts.store import to_json
from trainers.evaluation.metrics import FIELD, METHODS, METRICS, AnswerRecord, BaselineComparison, by_query

REPORT_JSON: Final = "report.json"
REPORT_HTML: Final = "report.html"
DECIMALS: Final = 4
"""Of figures per query."""
PROPERTIES: Final = (
    "monotonicity",
    "continuity",
    "individual_rationality",
    "value_maximiser_ic",
    "exploitability",
    "equilibrium",
    "new_titles",
)
"""Names of the properties, in the order in which they are shown."""


def _one_of(names: tuple[str, ...]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"unknown name; use one of {', '.join(names)}")
        return name

    return AfterValidator(check)


MethodName = Annotated[str, _one_of(METHODS)]
MetricName = Annotated[str, _one_of(METRICS)]
PropertyName = Annotated[str, _one_of(PROPERTIES)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Part):
    """A measured figure with its 95% interval. An unbounded end is null; all three are null where it is undefined."""

    mean: float | None
    lo: float | None
    hi: float | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.mean is None and (self.lo is not None or self.hi is not None):
            raise ValueError("an interval without a mean; give null for all three or a mean")
        if self.mean is not None:
            slack = 1e-9 * max(1.0, abs(self.mean))
            if (self.lo is not None and self.lo > self.mean + slack) or (
                self.hi is not None and self.hi < self.mean - slack
            ):
                raise ValueError("not lo <= mean <= hi")
        return self

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """Build a figure from an interval; an end that is not finite becomes null."""
        return cls.model_validate(interval.to_dict())


class Compared(_Part):
    """Our figure divided by and minus the baseline's, paired; `ratio` is null where the baseline's is not positive."""

    ratio: Figure | None
    difference: Figure | None


class Property(_Part):
    """A property's headline interval and verdict, with whatever else `mechanism.properties` measured beside it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    mean: Finite | None
    lo: Finite | None
    hi: Finite | None
    holds: bool


class Tuning(_Part):
    """How a method's settings were chosen on validation contexts: number tried, the winner, its learned reward."""

    tried: Annotated[int, Field(ge=1)]
    chosen: str
    learned_reward: Finite | None = None


class PerQuery(_Part):
    """One method's figures for each query, rounded, by which reports of several seeds are merged (`seeds`)."""

    query: tuple[str, ...]
    revenue: tuple[float, ...]
    reward: tuple[float, ...]
    clicks_expected: tuple[float, ...]
    relevance_sum: tuple[float, ...]
    ads: tuple[float, ...]
    invalid: tuple[float, ...]
    quality: tuple[float, ...]
    generations: tuple[float, ...]
    seconds: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for name in FIELD.values():
            _check_length(name, getattr(self, name), self.query, "query")
        return self

    @classmethod
    def of(cls, records: Sequence[AnswerRecord]) -> Self:
        """Build the figures from one method's records."""
        table = by_query(records)
        columns = {name: [round(row[name], DECIMALS) for row in table.values()] for name in FIELD.values()}
        return cls.model_validate({"query": list(table), **columns})


class Epoch(_Part):
    """Figures of an epoch of training; epoch 0 is the policy before training. Further figures are allowed."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float | None]

    epoch: Count
    revenue_per_query: float | None = None
    reward_per_query: float | None = None
    pctr_auc: float | None = None
    pctr_calibration_error: float | None = None
    kl_to_base: float | None = None
    ads_per_answer: float | None = None
    seconds: float | None = None


class Band(_Part):
    """Means and 95% intervals along a bid grid."""

    mean: tuple[float, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]


class Allocation(_Part):
    """Expected clicks per query of the swept ad at `bids` (points), for each epoch's policy (epoch number as text)."""

    bids: tuple[float, ...]
    epochs: dict[Annotated[str, Field(pattern=r"^\d+$")], Band]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for epoch, band in self.epochs.items():
            for name in ("mean", "lo", "hi"):
                _check_length(f"epochs.{epoch}.{name}", getattr(band, name), self.bids, "bids")
        return self


class ContinuityCurve(_Part):
    """Allocation of one ad on one query at `bids` (points), with standard errors."""

    bids: tuple[float, ...]
    mean: tuple[float, ...]
    error: tuple[Annotated[float, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for name in ("mean", "error"):
            _check_length(name, getattr(self, name), self.bids, "bids")
        return self


class Calibration(_Part):
    """Reliability of the pCTR model: mean prediction, click rate and size of each bin (empty bins left out)."""

    predicted: tuple[Share, ...]
    observed: tuple[Share, ...]
    count: tuple[Count, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        for name in ("observed", "count"):
            _check_length(name, getattr(self, name), self.predicted, "predicted")
        return self


class Machine(_Part):
    """The machine's kind, never its name. `ram_gib` is None where the system does not report it."""

    cpu: str
    cores: Annotated[int, Field(ge=1)]
    ram_gib: float | None = None
    accelerator: str = ""


class Meta(_Part):
    """What is needed to repeat the evaluation and to compare it with another."""

    config: str
    base: str
    seed: int
    queries: Count
    candidates: Count
    command: str
    machine: Machine
    date: str
    versions: dict[str, str] = Field(default_factory=dict)
    digest: str = ""


class ShownAd(_Part):
    """An ad in a sample answer: its title occupies `text[start:end]`. `bid` in points, `ctr` its true click rate."""

    id: str
    title: str
    start: Count
    end: Count
    bid: float | None = None
    ctr: Share | None = None


class Sample(_Part):
    """An unedited answer for people to read; it never holds a user's profile."""

    query: str
    method: MethodName
    text: str
    ads: tuple[ShownAd, ...] = ()

    @model_validator(mode="after")
    def _within_text(self) -> Self:
        end = 0
        for ad in sorted(self.ads, key=lambda ad: ad.start):
            if not end <= ad.start <= ad.end <= len(self.text):
                raise ValueError(f"ad {ad.id!r} at {ad.start}..{ad.end} overlaps another or lies outside the text")
            end = ad.end
        return self

    @classmethod
    def of(cls, context: Context, method: str, answer: Answer, ctr: Mapping[str, float] | None = None) -> Self:
        """Build a sample from an answer to `context`, with true click rates `ctr` where given."""
        by_id = {c.ad.id: c for c in context.candidates}
        ads = tuple(
            ShownAd(
                id=i.ad_id,
                title=by_id[i.ad_id].ad.title,
                start=i.start,
                end=i.end,
                bid=by_id[i.ad_id].bid / MICROS_PER_POINT,
                ctr=(ctr or {}).get(i.ad_id),
            )
            for i in answer.insertions
        )
        return cls(query=context.query, method=method, text=answer.text, ads=ads)


def _complete(found: dict[str, Figure]) -> dict[str, Figure]:
    missing = [metric for metric in METRICS if metric not in found]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}; give every metric, null where it is undefined")
    return found


class Report(_Part):
    """Everything that an evaluation measured; any subset of methods, properties and curves."""

    meta: Meta
    methods: dict[MethodName, Annotated[dict[MetricName, Figure], AfterValidator(_complete)]]
    ratios: dict[MethodName, dict[MetricName, Compared]] = Field(default_factory=dict)
    properties: dict[PropertyName, Property] = Field(default_factory=dict)
    best_single_generation: MethodName | None = None
    """The rival of one generation with the highest reward; its comparison with ours is in `ratios`."""
    tuning: dict[MethodName, Tuning] = Field(default_factory=dict)
    per_query: dict[MethodName, PerQuery] = Field(default_factory=dict)
    equilibrium: dict[str, Any] | None = None
    """Payment rules at equilibrium between bidders that shade (`mechanism.properties.EquilibriumComparison`)."""
    epochs: tuple[Epoch, ...] = ()
    allocation: Allocation | None = None
    continuity_curve: ContinuityCurve | None = None
    calibration: Calibration | None = None
    samples: tuple[Sample, ...] = ()
    train_seconds: Annotated[float, Field(ge=0)] | None = None
    constrained_answers: Count | None = None
    """Number of answers generated under the marker constraint, over all `methods`."""


def figures(intervals: Mapping[str, Interval]) -> dict[str, Figure]:
    """Convert the result of `summarise` to the report's schema."""
    return {metric: Figure.of(interval) for metric, interval in intervals.items()}


def compared(comparisons: Mapping[str, Mapping[str, BaselineComparison]]) -> dict[str, dict[str, Compared]]:
    """Convert the result of `ratios` to the report's schema."""
    return {
        baseline: {
            metric: Compared(
                ratio=None if c.ratio is None else Figure.of(c.ratio),
                difference=None if c.difference is None else Figure.of(c.difference),
            )
            for metric, c in metrics.items()
        }
        for baseline, metrics in comparisons.items()
    }


def _check_length(name: str, values: tuple[object, ...], other: tuple[object, ...], other_name: str) -> None:
    if len(values) != len(other):
        raise ValueError(f"{name} has {len(values)} values, {other_name} has {len(other)}; give as many")


def encode_report(report: Report) -> str:
    """Encode the report as JSON text; numbers are finite, unknown ones null."""
    return to_json(report.model_dump(mode="json"), REPORT_JSON)


def read_report(path: str | Path) -> Report:
    """Read a report.json, or the one in a folder (path or fsspec URL); errors also as `parse_report`.

    Raises:
        InputError: if there is no report.
    """
    fs, where = fsspec.core.url_to_fs(str(path))
    if fs.isdir(where):
        where = f"{where}/{REPORT_JSON}"
    if not fs.exists(where):
        raise InputError(str(path), REPORT_JSON, "there is no report here; write one with `llm-auction evaluate`")
    with fs.open(where, "rb") as file:
        raw: bytes = file.read()
    return parse_report(raw, where)


def parse_report(raw: bytes | str, place: str) -> Report:
    """Parse JSON text and check it against the report's schema; `place` names it in errors.

    Raises:
        InputError: if it is not JSON (with the line) or does not fit the schema (with the field).
    """
    try:
        data: Any = json.loads(raw)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}:{error.lineno}", error.msg, "give a report.json as it was written") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start}", error.reason, "give a report.json in UTF-8") from None
    try:
        return Report.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part != "[key]") or "report"
        value = "(absent)" if first["type"] == "missing" else _excerpt(first["input"])
        raise InputError(f"{place}: {field}", value, first["msg"].removeprefix("Value error, ")) from None


def _excerpt(value: object) -> object:
    """Return a plain value as it is, else its type: a whole object is too long for a message."""
    return value if isinstance(value, str | int | float | bool) or value is None else type(value).__name__
