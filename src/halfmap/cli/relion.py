"""RELION's refinement options without a counterpart: accepted, with a note of what is done instead."""

from __future__ import annotations

import argparse

_POSES = "poses are refined continuously, from a grid that --angular-step sets (automatic by default)"
_STREAM = "images are read ahead from where they are"
_MEMORY = "the number of images worked on at once is automatic (--batch sets it)"
_SIZE = "the particles decide the map's box and pixel size"

# RELION's options without a counterpart: those that ask for what is always done, and for the others how many
# values they take and what is done instead.
RELION_ALWAYS = ("--auto_refine", "--split_random_halves", "--ctf", "--norm", "--zero_mask",
                 "--dont_combine_weights_via_disc", "--no_parallel_disc_io")
RELION_NOTES: dict[str, tuple[int | str, str]] = {
    "--firstiter_cc": (0, "the intensity scale of the images is fitted (--scale)"),
    "--solvent_correct_fsc": (0, "the FSC inside the mask is always corrected by phase randomisation"),
    "--oversampling": (1, _POSES),
    "--healpix_order": (1, _POSES),
    "--auto_local_healpix_order": (1, _POSES),
    "--offset_step": (1, _POSES),
    "--offset_range": (1, "RELION counts pixels here; --offset-range takes A, and is automatic by default"),
    "--trust_ref_size": (0, _SIZE),
    "--angpix": (1, _SIZE),
    "--gpu": ("?", "--device chooses where to compute"),
    "--pool": (1, _MEMORY),
    "--preread_images": (0, _STREAM),
    "--scratch_dir": (1, _STREAM),
    "--pipeline_control": (1, "halfmap is not a RELION pipeline job"),
}


class Note(argparse.Action):
    """Keep the note of an option that is accepted and has no effect."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:
        notes = getattr(namespace, self.dest, ())
        setattr(namespace, self.dest, (*notes, f"{option_string}: {RELION_NOTES[str(option_string)][1]}"))
