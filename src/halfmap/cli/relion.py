"""RELION's refinement options without a counterpart here: they are accepted, with a note of what is done instead."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

_POSES = "poses are refined continuously, from a grid that --angular-step sets (automatic by default)"
_STREAM = "images are read ahead from where they are"
_MEMORY = "the number of images worked on at once is automatic (--batch sets it)"
_SIZE = "the particles decide the map's box and pixel size"

# Options that ask for what is always done.
RELION_ALWAYS = ("--auto_refine", "--split_random_halves", "--ctf", "--norm", "--zero_mask",
                 "--dont_combine_weights_via_disc", "--no_parallel_disc_io")


@dataclass(frozen=True)
class Instead:
    """What is done in place of an option. values: how many the option takes, as argparse's nargs."""

    values: int | str
    done: str


RELION_NOTES = {
    "--firstiter_cc": Instead(0, "the intensity scale of the images is fitted (--scale)"),
    "--solvent_correct_fsc": Instead(0, "the FSC inside the mask is always corrected by phase randomisation"),
    "--oversampling": Instead(1, _POSES),
    "--healpix_order": Instead(1, _POSES),
    "--auto_local_healpix_order": Instead(1, _POSES),
    "--offset_step": Instead(1, _POSES),
    "--offset_range": Instead(1, "RELION counts pixels here; --offset-range takes A, and is automatic by default"),
    "--trust_ref_size": Instead(0, _SIZE),
    "--angpix": Instead(1, _SIZE),
    "--gpu": Instead("?", "--device chooses where to compute"),
    "--pool": Instead(1, _MEMORY),
    "--preread_images": Instead(0, _STREAM),
    "--scratch_dir": Instead(1, _STREAM),
    "--pipeline_control": Instead(1, "halfmap is not a RELION pipeline job"),
}


class Note(argparse.Action):
    """Keep the note on an option that is accepted but has no effect."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:
        notes = getattr(namespace, self.dest, ())
        setattr(namespace, self.dest, (*notes, f"{option_string}: {RELION_NOTES[str(option_string)].done}"))
