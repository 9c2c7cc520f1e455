"""The notebook of the documentation, executed as a reader would: every cell, in a folder of its own."""

import base64
import os
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from support import OURS, PROJECT

pytestmark = [
    pytest.mark.slow,
    # Jupyter's libraries open sockets and event loops of their own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.mark.nightly
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CATDOG_CACHE", str(cache))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(PROJECT / "docs" / "study.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    # No stray prints, and no warnings: progress is shown in one place.
    assert not [output for output in outputs if output.output_type == "stream"], outputs
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("6 of 6 done" in text for text in html)
    assert any("reuse" in text for text in html)
    assert any("drawn_mini" in text and "better" in text for text in html)
    figures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 2
    for number, figure in enumerate(figures):
        content = base64.b64decode(figure)
        (tmp_path / f"figure-{number}.png").write_bytes(content)
        pixels = np.asarray(Image.open(BytesIO(content)).convert("L"))
        # Drawn on: neither empty nor one colour.
        assert pixels.shape[0] > 200
        assert pixels.std() > 10
    assert (tmp_path / "comparison.html").stat().st_size > 100_000
