"""What every regulariser of the registry must do, those of other packages too where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from halfmap.settings.regularisers import REGULARISERS
from halfmap.workflows.regulariser_claims import CLAIMS


@pytest.mark.parametrize("name", REGULARISERS)
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_regulariser_does_what_all_must(claim: str, name: str, tmp_path: Path) -> None:
    CLAIMS[claim](name, tmp_path)
