"""The report: one schema for what an evaluation found.

A figure that was not measured is absent or null, never invented. Measuring is left to the harness, wording to
`wording`, drawing to `plots` and `html`, files to `report_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mechanism.statistics import Interval
from mechanism.types import Answer, Context
from trainers.evaluation.comparison import Comparison
from trainers.evaluation.records import METHODS, METRICS

PROPERTIES: Final = (
    "monotonicity",
    "continuity",
    "individual_rationality",
    "value_maximiser_ic",
    "exploitability",
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
        """From an interval; an end that is not finite becomes null."""
        return cls.model_validate(interval.to_dict())


class Compared(_Part):
    """Ours over the rival's and ours minus the rival's, paired; `ratio` null where the rival's is not positive."""

    ratio: Figure | None
    difference: Figure | None


class Property(_Part):
    """A property's headline interval and verdict, with whatever else `mechanism.properties` measured beside it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    mean: Finite | None
    lo: Finite | None
    hi: Finite | None
    holds: bool


class Epoch(_Part):
    """What an epoch of training reached; epoch 0 is the policy before training. Further figures may stand beside."""

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
    """The machine by its kind, never by its name. `ram_gib` is None where the system does not say."""

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
    """An answer as it came, for people to read. Never a user's profile."""

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
        """From an answer to `context`, with the bids in points and the true click rates `ctr` where given."""
        from mechanism.prompt import MICROS_PER_POINT

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
    """Everything that an evaluation found. Any subset of methods, properties and curves may be there."""

    meta: Meta
    methods: dict[MethodName, Annotated[dict[MetricName, Figure], AfterValidator(_complete)]]
    ratios: dict[MethodName, dict[MetricName, Compared]] = Field(default_factory=dict)
    properties: dict[PropertyName, Property] = Field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    allocation: Allocation | None = None
    continuity_curve: ContinuityCurve | None = None
    calibration: Calibration | None = None
    samples: tuple[Sample, ...] = ()
    train_seconds: Annotated[float, Field(ge=0)] | None = None
    constrained_answers: Count | None = None
    """Answers generated under the marker constraint for `methods`, of which `invalid_insertions` speaks."""


def figures(intervals: Mapping[str, Interval]) -> dict[str, Figure]:
    """`summarise`'s result in the report's form."""
    return {metric: Figure.of(interval) for metric, interval in intervals.items()}


def compared(comparisons: Mapping[str, Mapping[str, Comparison]]) -> dict[str, dict[str, Compared]]:
    """`comparison.ratios`' result in the report's form."""
    return {
        rival: {
            metric: Compared(
                ratio=None if c.ratio is None else Figure.of(c.ratio),
                difference=None if c.difference is None else Figure.of(c.difference),
            )
            for metric, c in metrics.items()
        }
        for rival, metrics in comparisons.items()
    }


def _check_length(name: str, values: tuple[object, ...], other: tuple[object, ...], other_name: str) -> None:
    if len(values) != len(other):
        raise ValueError(f"{name} has {len(values)} values, {other_name} has {len(other)}; give as many")
