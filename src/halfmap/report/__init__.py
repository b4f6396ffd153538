"""The report of a run: one self-contained HTML file, rewritten after every iteration."""

from halfmap.report.filtered import FilteredPair, write_filtered_report
from halfmap.report.folder import report_from_run
from halfmap.report.local_resolution import LocalResolutionPage, write_local_resolution_page
from halfmap.report.page import write_report
from halfmap.report.postprocessed import PostprocessedMaps, write_postprocess_report
from halfmap.report.snapshot import Snapshot

__all__ = ["FilteredPair", "LocalResolutionPage", "PostprocessedMaps", "Snapshot", "report_from_run",
           "write_filtered_report", "write_local_resolution_page", "write_postprocess_report", "write_report"]
