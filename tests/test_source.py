"""The source digest follows imports: an edit reaches the steps that use the module, no others."""

import ast
import shutil
from pathlib import Path

import pytest

import vaesc.source as source
from vaesc import steps


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """A copy of the package to edit; returns a function from a file to the steps it changes."""
    package = tmp_path / "vaesc"
    shutil.copytree(Path(source.__file__).parent, package)
    monkeypatch.setattr(source, "_PACKAGE", package)
    every = [steps.INGEST, steps.TRAIN, steps.EXTRACT, steps.LEARN, steps.EVALUATE]

    def digests():
        source.source_digest.cache_clear()
        return {step.name: source.source_digest(step.module) for step in every}

    def changed_by(file):
        before = digests()
        with (package / file).open("a") as stream:
            stream.write("\n_EDITED = True\n")
        return {name for name, digest in digests().items() if digest != before[name]}

    yield changed_by
    source.source_digest.cache_clear()


def test_an_edit_in_models_changes_the_vae_but_not_the_dataset(edited):
    assert edited("models/__init__.py") >= {"train", "extract", "evaluate"}
    assert "ingest" not in edited("models/__init__.py")


def test_an_edit_in_sparse_leaves_the_vae_and_the_latents_alone(edited):
    assert edited("sparse/__init__.py") == {"learn", "evaluate"}


@pytest.mark.parametrize("file", ["__init__.py", "mnist.py", "ingestion.py", "digits.py"])
def test_an_edit_in_a_data_source_runs_only_the_ingestion_again(edited, file):
    assert edited(f"datasets/{file}") == {"ingest"}


def test_an_edit_in_the_reader_changes_whatever_reads_images(edited):
    assert edited("datasets/reader.py") >= {"ingest", "train", "extract", "evaluate"}


@pytest.mark.parametrize(
    "file", ["config.py", "store.py", "records.py", "cli/__init__.py", "steps.py"]
)
def test_the_ground_floor_and_the_roof_change_nothing(edited, file):
    assert edited(file) == set()


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match=r"vaesc\.nowhere is not a module"):
        source.source_digest("vaesc.nowhere")


def test_no_import_of_any_module_is_missed():
    """The pattern against Python's own parser, on every module there is."""
    for path in Path(source.__file__).parent.rglob("*.py"):
        content = path.read_bytes()
        parsed = set()
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                parsed |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                parsed |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        modules = {n for n in parsed if n.startswith("vaesc.") and source._file_of(n)}
        assert modules <= set(source._imports(content)), path
