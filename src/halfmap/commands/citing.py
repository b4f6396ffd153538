"""What results made with a regulariser are to cite."""

from __future__ import annotations

import dataclasses

from halfmap.settings.regularisers import RegulariserOptions


def citing() -> str:
    """What to cite for each regulariser, as the setting that chooses one says."""
    (choice,) = (field for field in dataclasses.fields(RegulariserOptions) if field.name == "regulariser")
    return str(choice.metadata.get("reference", ""))
