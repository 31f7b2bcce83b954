"""Machine code that several processes keep on disk at once."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

KERNEL = """
from vaesc.sparse._jit import compiled

@compiled
def scaled(values, by):
    return values * by
"""


def place_of_code(path):
    """Import a module anew, as another process does; return where it keeps its machine code."""
    spec = importlib.util.spec_from_file_location("kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.scaled._cache._cache_file


def test_two_that_save_at_once_keep_each_its_own_code(tmp_path, monkeypatch):
    """Each is held after its look at what is there, until both have looked, or one may not."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "kernels.py"
    path.write_text(KERNEL)
    places, both = [place_of_code(path), place_of_code(path)], threading.Barrier(2)

    def save(place, types):
        look = place._load_index

        def looked():
            known = look()
            with suppress(threading.BrokenBarrierError):
                both.wait(1)
            return known

        place._load_index = looked
        place.save(types, f"code for {types}")

    for place in places:
        (tmp_path / "cache" / place._cache_path).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, places, ["float32", "float64"]))
    later = place_of_code(path)
    for types in ("float32", "float64"):
        assert later.load(types) == f"code for {types}"
