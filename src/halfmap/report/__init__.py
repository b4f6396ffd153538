"""The report of a run: one self-contained HTML file, rewritten after every iteration."""

from halfmap.report.pages.compare import ComparedRuns, write_compare_report
from halfmap.report.pages.deposit import write_deposit_pictures
from halfmap.report.pages.local_resolution import LocalResolutionPage, write_local_resolution_page
from halfmap.report.pages.orientations import OrientationsPage, write_orientations_page
from halfmap.report.pages.postprocess import PostprocessedMaps, write_postprocess_report
from halfmap.report.pages.refine import write_report
from halfmap.report.pages.regularise import FilteredPair, write_filtered_report
from halfmap.report.pages.run_folder import report_from_run
from halfmap.report.pages.snapshot import Snapshot

__all__ = ["ComparedRuns", "FilteredPair", "LocalResolutionPage", "OrientationsPage", "PostprocessedMaps", "Snapshot",
           "report_from_run", "write_compare_report", "write_deposit_pictures", "write_filtered_report",
           "write_local_resolution_page", "write_orientations_page", "write_postprocess_report", "write_report"]
