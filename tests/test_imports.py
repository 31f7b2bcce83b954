"""The floors: who may import whom, and that start-up stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vaesc

PACKAGE = Path(vaesc.__file__).parent
ROOT = PACKAGE.parent
HEAVY = ("torch", "mlflow", "prefect", "sklearn", "numba", "obstore")
FLOORS = [
    {
        "arithmetic",
        "errors",
        "memory",
        "config",
        "records",
        "store",
        "bucket",
        "remote",
        "shared",
        "untrusted",
        "arrays",
        "parts",
        "progress",
        "source",
        "config_files",
        "origin",
        "processes",
        "cgroup",
        "resources",
        "room",
        "scratch",
        "serving",
        "shards",
        "csr_parts",
    },
    {"datasets", "models", "sparse", "metrics"},
    {
        "training", "latents", "dictionary", "dictionary_files", "coding_shards", "dead_atoms",
        "decoder_coding", "drift", "bundle",
    },
    {
        "evaluation", "refinement", "applications", "report", "scoring", "scoring_batch",
        "scoring_shards", "steps", "export", "gate", "sweep",
    },
    {"registry", "reproduction", "needed", "remote_care", "housekeeping", "cli"},
]  # fmt: skip


def modules(folder):
    return sorted(p for p in (ROOT / folder).rglob("*.py"))


def imports(path, *, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def floor_of(module):
    room = module.split(".")[1]
    return next((i for i, floor in enumerate(FLOORS) if room in floor), None)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", modules("vaesc"), ids=module_name)
def test_no_room_of_the_library_looks_up(path):
    name = module_name(path)
    if name in ("vaesc", "vaesc.__main__"):
        return
    own = floor_of(name)
    assert own is not None, f"{name} has no floor in this test: give it one"
    # The steps are the one list of all rooms: they name each library call, inside functions.
    if name == "vaesc.steps":
        return
    for imported in imports(path):
        if imported.startswith("vaesc."):
            assert floor_of(imported) <= own, f"{name} imports {imported}, which is above it"


@pytest.mark.parametrize("path", modules("vaesc"), ids=module_name)
def test_the_library_knows_no_orchestrator(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"prefect", "tasks", "flows", "pickle", "cloudpickle", "joblib"}
    if "registry" not in path.parts:
        assert "mlflow" not in roots


@pytest.mark.parametrize("path", modules("flows"), ids=module_name)
def test_flows_do_no_arithmetic(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"torch", "numpy", "zarr", "mlflow", "sklearn", "scipy"}


def loaded_by(statement):
    program = f"import sys; {statement};print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "statement",
    [
        "import vaesc",
        "import vaesc.cli",
        "import vaesc.registry",
        "import vaesc.datasets",
        "import vaesc.sparse",
        "import vaesc.report",
        "import vaesc.drift",
    ],
)
def test_importing_loads_nothing_heavy(statement):
    assert loaded_by(statement) == "[]"


def test_help_loads_nothing_heavy():
    statement = (
        "import vaesc.cli, contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    vaesc.cli.main(['run', '--help'])\n"
    )
    program = f"{statement}import sys\nprint([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
