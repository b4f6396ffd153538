"""The report of a run: one self-contained HTML file, rewritten after every iteration."""

from halfmap.report.folder import report_from_run
from halfmap.report.page import write_report
from halfmap.report.snapshot import Snapshot

__all__ = ["Snapshot", "report_from_run", "write_report"]
