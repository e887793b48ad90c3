"""What every import must hold, whatever the files."""

from __future__ import annotations

from mechanism.markers import parse
from simulator.importers import ImportedData


def places(data: ImportedData) -> list[tuple[str, int, str]]:
    """Return file, line and field of each refused row."""
    return [(issue.file, issue.line, issue.field) for issue in data.report.issues]


def assert_accounted(data: ImportedData) -> None:
    """Every row is accepted or refused at a place with a remedy; labels and answers name ads of the data."""
    for count in data.report.files.values():
        assert count.read == count.accepted + count.reported
    assert data.report.read == data.report.accepted + len(data.report.issues)
    assert all(issue.file and issue.line >= 1 and issue.field and issue.remedy for issue in data.report.issues)
    ids = {ad.id for ad in data.ads}
    assert len(ids) == len(data.ads)
    for query in data.queries:
        assert set(query.relevant) <= ids
        for answer in query.answers:
            read = parse(answer.text, data.ads)
            assert [i.ad_id for i in read.insertions] == ([answer.ad] if answer.ad else [])
            assert not read.faults
