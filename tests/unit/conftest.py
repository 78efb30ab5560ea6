"""No unit test writes to the machine's own journal."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpulab.fleet.plugins.module_utils import _journal


@pytest.fixture(autouse=True)
def journal_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    monkeypatch.setattr(_journal, "FOLDER", folder)
    return folder
