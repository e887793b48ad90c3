"""What an import tells a person: every row that was refused, every row that was mended, and counts that add up.

A row of a file is either accepted or reported, never both and never neither. How files are read is `rows`; what makes
a row good is each importer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mechanism.errors import InputError

NAMED_IN_ERROR = 5


@dataclass(frozen=True, slots=True)
class RowIssue:
    """One row at `file`:`line` (from 1): the `field` at fault, its `value`, and what to do about it."""

    file: str
    line: int
    field: str
    value: str
    remedy: str

    def __str__(self) -> str:
        value = repr(self.value)
        shown = value if len(value) <= 80 else value[:77] + "..."
        return f"{self.file}:{self.line} {self.field}: {shown}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class FileCount:
    """Rows of one file, its header not counted: read = accepted + reported."""

    read: int
    accepted: int
    reported: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """`issues`: one per refused row. `repairs`: accepted rows whose content was changed, and ignored columns."""

    files: Mapping[str, FileCount]
    issues: tuple[RowIssue, ...]
    repairs: tuple[RowIssue, ...] = ()

    @property
    def read(self) -> int:
        """Rows read from all files."""
        return sum(count.read for count in self.files.values())

    @property
    def accepted(self) -> int:
        """Rows that are part of the imported data."""
        return sum(count.accepted for count in self.files.values())

    def refuse_issues(self, place: str) -> None:
        """Raise one InputError that sums the refused rows up, if there are any (the `strict` mode of an importer)."""
        if not self.issues:
            return
        first = "; ".join(str(issue) for issue in self.issues[:NAMED_IN_ERROR])
        more = len(self.issues) - NAMED_IN_ERROR
        tail = f"; and {more} more" if more > 0 else ""
        count = f"{len(self.issues)} of {self.read} rows refused"
        raise InputError(place, count, f"mend them or import without strict: {first}{tail}")


@dataclass(slots=True)
class ReportBuilder:
    """Collects while an import runs. Each row read is settled by exactly one of `accept` and `refuse`."""

    _read: dict[str, int] = field(default_factory=dict)
    _accepted: dict[str, int] = field(default_factory=dict)
    _issues: list[RowIssue] = field(default_factory=list)
    _repairs: list[RowIssue] = field(default_factory=list)

    def open(self, file: str) -> None:
        """Name a file, so that it is in the report even when it has no row."""
        self._read.setdefault(file, 0)
        self._accepted.setdefault(file, 0)

    def read(self, file: str) -> None:
        """Count one row read."""
        self._read[file] += 1

    def accept(self, file: str) -> None:
        """Count one row as part of the data."""
        self._accepted[file] += 1

    def refuse(self, issue: RowIssue) -> None:
        """Report the row of `issue`; it is not part of the data."""
        self._issues.append(issue)

    def repair(self, note: RowIssue) -> None:
        """Note a change to a row that is accepted."""
        self._repairs.append(note)

    def build(self) -> ImportReport:
        """The finished report. Raises RuntimeError when a row was read but not settled: an importer's own defect."""
        reported = dict.fromkeys(self._read, 0)
        for issue in self._issues:
            reported[issue.file] += 1
        files = {f: FileCount(n, self._accepted[f], reported[f]) for f, n in self._read.items()}
        lost = [f for f, count in files.items() if count.read != count.accepted + count.reported]
        if lost:
            raise RuntimeError(f"rows of {lost} were neither accepted nor reported exactly once: mend the importer")
        return ImportReport(files, tuple(self._issues), tuple(self._repairs))
