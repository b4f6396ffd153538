"""``halfmap start``: a starting map from images alone."""

from __future__ import annotations

from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.finding import Finding
from halfmap.options import table
from halfmap.runtime.terminal import say, tell_findings
from halfmap.settings.commands import command_line
from halfmap.settings.start import StartSettings, validated_start


def start(settings: StartSettings) -> Done:
    """Find a map, and write its page. Succeeds where starts agree."""
    checked = validated_start(settings)
    from halfmap.report.pages.start import StartPage, write_start_page
    from halfmap.workflows.start import start as find

    report = page_writer(write_start_page, StartPage, checked.out, settings=table(checked),
                         command=command_line(checked))
    found = find(checked, report)
    if found is None:  # it helped another process, which says what was found
        return Done(checked.out)
    tell_findings(Finding("agreement of starts", found.verdict(), "map", "note" if found.succeeded else "warning"))
    say(f"Finished: {checked.out / 'report.html'}")
    return Done(checked.out, found.succeeded)
