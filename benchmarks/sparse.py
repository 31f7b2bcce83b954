"""Our sparse coding against scikit-learn and SPAMS: one process, interleaved, answers compared.

    make bench-sparse ARGS=--set-up             # once: a virtualenv for the peers
    make bench-sparse [ARGS="--only lasso"]     # table; --json: one JSON object

Images are Fashion-MNIST if `vaesc` finds it (``--folder`` adds a place to look in), else the 8x8
digits of scikit-learn; ``--source`` asks for another. Parts whose names hold one of the words of
``--only`` are run; learning and the figure of amortised coders only if asked for.

Every contender codes the same array in turn, round after round, on one thread unless said; rates
are samples per CPU second, ratios are taken round by round: median (least; greatest). The first,
untimed round compiles, and is what the answers are compared on. SPAMS' ``omp`` is orthogonal
least squares, and needs ``eps=0.0`` (its default returns truncated codes now and then), so it
stands against our "ols". Latents are those of ``--latents`` (a folder of vaesc's step extract), or
stood in for by the 32 leading principal components.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PEERS = Path(".venv-peers")
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "zarr>=3.1,<3.2",
    "filelock",
    "spams-bin",
    "dictlearn",
)

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "2" if "--two-threads" in sys.argv else "1")


def set_up(folder):
    """Make the peers' virtualenv: SPAMS is no dependency of ours."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", *PACKAGES], check=True)


def images(source, folder):
    """Training and test images as float32 rows in [0, 1], and the name of their source."""
    import numpy as np

    from vaesc.config import DatasetConfig
    from vaesc.datasets import is_present
    from vaesc.datasets.sources import source_of

    config = DatasetConfig(source=source or "fashion-mnist", folder=folder)
    if not source and not is_present(config):
        config = DatasetConfig(source="digits")
    if config.source == "digits":  # few: each training image counts several times
        from sklearn.datasets import load_digits

        rows = np.tile(load_digits().data.astype(np.float32) / 16, (6, 1))
        return rows[:-1797], rows[-1797:], "digits"
    parts = source_of(config).load(config, seed=0).parts
    flat = (np.asarray(parts[name].images).reshape(-1, 784) for name in ("train", "test"))
    return *(part / np.float32(255) for part in flat), config.source


def principal(X, d=32):
    """Scores of the leading principal components, in units of their common deviation."""
    import numpy as np

    centred = X - X.mean(axis=0)
    vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, : min(d, X.shape[1] // 2)]
    scores = centred @ vectors
    return np.ascontiguousarray(scores / scores.std(), np.float32)


def live(folder):
    """Training latents of a VAE, centred, in units of their common deviation."""
    import numpy as np

    from vaesc.latents import open_latents

    z = open_latents(folder).latents("train")
    z = z - z.mean(axis=0)
    return np.ascontiguousarray(z / z.std(), np.float32)


def race(contenders, n, rounds):
    """Samples per CPU second of each contender in each round, in turn."""
    rates = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (work, size) in contenders.items():
            start = time.process_time()
            work()
            rates[name].append(min(n, size) / (time.process_time() - start))
    return rates


def ratio(rates, ours, theirs):
    """Median, least and greatest of the rounds' ratios."""
    each = sorted(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))
    return {"median": each[len(each) // 2], "least": each[0], "greatest": each[-1]}


def median(values):
    """Middle one of the values."""
    return sorted(values)[len(values) // 2]


def supports_equal(a, b):
    """Share of rows with the same support in two CSR codes."""
    import numpy as np

    rows = min(a.shape[0], b.shape[0])
    same = [
        np.array_equal(
            a.indices[a.indptr[i] : a.indptr[i + 1]],
            np.sort(b.indices[b.indptr[i] : b.indptr[i + 1]]),
        )
        for i in range(rows)
    ]
    return float(np.mean(same))


def greedy(X, dictionary, k, rounds, few=6000):
    """Greedy codes: ours by both rules, scikit-learn's OMP in float64, SPAMS' OLS in float32."""
    import numpy as np
    import spams
    from dictlearn import sparse_encode as dictlearn_encode
    from scipy.sparse import csr_array
    from sklearn.decomposition import sparse_encode

    from vaesc.sparse import orthogonal_matching_pursuit

    wide, wide_atoms = X[:few].astype(float), dictionary.astype(float)
    columns, atom_columns = np.asfortranarray(X.T), np.asfortranarray(dictionary.T)

    def ours(selection):
        return orthogonal_matching_pursuit(X, dictionary, k, selection=selection, n_threads=1)

    def scikit_learn():
        return sparse_encode(wide, wide_atoms, algorithm="omp", n_nonzero_coefs=k)

    def dictlearn():
        return dictlearn_encode(X, dictionary, algorithm="batch_omp", n_nonzero_coefs=k)

    def spams_ols():
        return spams.omp(columns, atom_columns, L=k, eps=0.0, numThreads=1)

    found = {"omp": ours("omp"), "ols": ours("ols")}
    their_omp, their_ols = csr_array(scikit_learn()), csr_array(spams_ols().T.tocsr())
    dictlearn()  # compiles for a minute
    wide_omp = orthogonal_matching_pursuit(wide, wide_atoms, k, n_threads=1)
    # A sample that is an atom itself needs one coefficient only; ours finds that.
    assert their_ols.nnz >= found["ols"].nnz, "SPAMS returned truncated codes"
    rates = race(
        {
            "our omp": (lambda: ours("omp"), len(X)),
            "our ols": (lambda: ours("ols"), len(X)),
            "product": (lambda: X @ dictionary.T, len(X)),
            "scikit-learn": (scikit_learn, few),
            "spams": (spams_ols, len(X)),
            "dictlearn": (dictlearn, len(X)),
        },
        len(X),
        rounds,
    )

    def mse(codes, rows=slice(None)):
        return float(np.square(X[rows] - codes @ dictionary).mean())

    return {
        "samples_per_cpu_second": {name: median(each) for name, each in rates.items()},
        "omp_to_scikit_learn": ratio(rates, "our omp", "scikit-learn"),
        "omp_to_dictlearn": ratio(rates, "our omp", "dictlearn"),
        "ols_to_spams": ratio(rates, "our ols", "spams"),
        "ols_to_omp_time": ratio(rates, "our omp", "our ols"),
        "omp_to_product": ratio(rates, "our omp", "product"),
        "support_as_scikit_learn": supports_equal(found["omp"], their_omp),
        "support_as_scikit_learn, both float64": supports_equal(wide_omp, their_omp),
        "support_as_spams": supports_equal(found["ols"], their_ols),
        "mse": {"omp": mse(found["omp"]), "ols": mse(found["ols"]), "spams": mse(their_ols)},
        "mse_off_scikit_learn": mse(found["omp"][:few], slice(few)) - mse(their_omp, slice(few)),
    }


def lasso_codes(X, dictionary, alpha, rounds, few=400):
    """Lasso codes: ours, scikit-learn's homotopy in float64, SPAMS' in float32."""
    import numpy as np
    import spams
    from scipy.sparse import csr_array
    from sklearn.decomposition import sparse_encode

    from vaesc.sparse import duality_gap, lasso

    wide, wide_atoms = X[:few].astype(float), dictionary.astype(float)
    columns, atom_columns = np.asfortranarray(X.T), np.asfortranarray(dictionary.T)

    def scikit_learn():
        return sparse_encode(
            wide, wide_atoms, algorithm="lasso_lars", alpha=alpha, max_iter=10_000
        )

    def ours():
        return lasso(X, dictionary, alpha, n_threads=1)

    def spams_lasso():
        return spams.lasso(columns, atom_columns, lambda1=alpha, mode=2, numThreads=1)

    codes = ours()
    objectives = [
        duality_gap(wide, wide_atoms, each, alpha)[0]
        for each in (codes[:few], csr_array(scikit_learn()))
    ]
    rates = race(
        {
            "ours": (ours, len(X)),
            "scikit-learn": (scikit_learn, few),
            "spams": (spams_lasso, len(X)),
        },
        len(X),
        rounds,
    )
    excess = objectives[0] / objectives[1] - 1
    return {
        "samples_per_cpu_second": {name: median(each) for name, each in rates.items()},
        "to_scikit_learn": ratio(rates, "ours", "scikit-learn"),
        "to_spams": ratio(rates, "ours", "spams"),
        "mean_nonzero": codes.nnz / len(X),
        "worst_relative_excess_over_scikit_learn": float(excess.max()),
    }


def bytes_codes(X, dictionary, k, rounds):
    """OLS codes of 8-bit images: by float32 products, and by exact products of bytes (torch)."""
    import numpy as np
    import torch

    from vaesc.sparse import orthogonal_matching_pursuit

    torch.set_num_threads(1)
    grey = np.rint(255 * X).astype(np.uint8)

    def code(digits):
        return orthogonal_matching_pursuit(
            grey, dictionary, k, selection="ols", byte_digits=digits, n_threads=1
        )

    names = {0: "float32", 2: "2 digits", 3: "3 digits"}
    found = {name: code(digits) for digits, name in names.items()}
    rates = race({n: (lambda d=d: code(d), len(X)) for d, n in names.items()}, len(X), rounds)
    mse = {n: float(np.square(grey - a @ dictionary).mean()) / 255**2 for n, a in found.items()}
    return {
        "samples_per_cpu_second": {name: median(each) for name, each in rates.items()},
        **{f"{n} to float32": ratio(rates, n, "float32") for n in list(found)[1:]},
        "same support": {n: supports_equal(a, found["float32"]) for n, a in found.items()},
        "mse": mse,
    }


def two_threads(X, dictionary, k, rounds=9):
    """Wall time of one thread over that of two; latents, which are quick, ten times over."""
    import numpy as np

    from vaesc.sparse import orthogonal_matching_pursuit

    if X.shape[1] < 100:
        X = np.concatenate([X] * 10)
    spent = {1: [], 2: []}
    for _ in range(rounds):
        for threads, seconds in spent.items():
            start = time.perf_counter()
            orthogonal_matching_pursuit(X, dictionary, k, selection="ols", n_threads=threads)
            seconds.append(time.perf_counter() - start)
    each = sorted(one / two for one, two in zip(spent[1], spent[2], strict=True))
    return {
        "speed_up": {"median": each[len(each) // 2], "least": each[0], "greatest": each[-1]},
        "speed_up of the shortest times": min(spent[1]) / min(spent[2]),
    }


def million(dictionary, d, k=8):
    """Seconds and memory for 100,000 and 1,000,000 latents."""
    import tracemalloc

    import numpy as np

    from vaesc.sparse import orthogonal_matching_pursuit

    rng = np.random.default_rng(0)
    rows = {}
    for n in (100_000, 1_000_000):
        X = rng.standard_normal((n, d), dtype=np.float32)
        start = time.process_time()
        codes = orthogonal_matching_pursuit(X, dictionary, k, selection="ols", n_threads=1)
        spent = time.process_time() - start
        tracemalloc.start()
        orthogonal_matching_pursuit(X, dictionary, k, selection="ols", n_threads=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        size = codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes
        rows[str(n)] = {
            "cpu_seconds": spent,
            "codes_bytes": size,
            "beside_them_bytes": peak - size,
        }
    return rows


def start_atoms(X, n_atoms, seed=0):
    """Sums of two samples as unit atoms: nobody's learned dictionary, and no sample itself."""
    import numpy as np

    lively = X[np.linalg.norm(X, axis=1) > 1e-3]
    one, two = np.random.default_rng(seed).choice(len(lively), (2, n_atoms), replace=False)
    atoms = lively[one] + np.float32(0.7) * lively[two]
    return np.ascontiguousarray(atoms / np.linalg.norm(atoms, axis=1, keepdims=True))


def main():
    """Run what was asked for, print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set-up", action="store_true", help="make the peers' virtualenv")
    parser.add_argument("--peers", type=Path, default=PEERS, help="the peers' virtualenv")
    parser.add_argument("--source", choices=("fashion-mnist", "mnist", "kmnist", "digits"))
    parser.add_argument("--folder", help="folder in torchvision's layout to look for images in")
    parser.add_argument("--latents", type=Path, help="artifact of vaesc's latents")
    parser.add_argument("--figure", type=Path, help="PNG to draw the amortised coders into")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, default=60_000, help="samples to code")
    parser.add_argument("--only", default="", help="comma-separated parts to run")
    parser.add_argument("--seconds", type=float, default=200, help="learning: CPU s of a peer")
    parser.add_argument("--seeds", type=int, default=3, help="learning: seeds")
    parser.add_argument("--jobs", type=int, default=1, help="learning: runs at a time")
    parser.add_argument("--two-threads", action="store_true", help="allow BLAS two threads")
    options = parser.parse_args()
    if options.set_up:
        set_up(options.peers)
        return
    try:
        if not needs_no_peers(options):
            import spams  # noqa: F401
    except ImportError:
        python = options.peers / "bin" / "python"
        if not python.exists():
            parser.error("the peers are not installed; run this with --set-up first")
        os.execv(python, [str(python), *sys.argv])
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    result = run(options)
    print(json.dumps(result) if options.json else table(result))


def needs_no_peers(options):
    """Whether only parts were asked for that compare us with ourselves (and may need torch)."""
    wanted = {w for w in options.only.split(",") if w}
    return bool(wanted) and wanted <= {"amortised", "bytes", "live", "settings"}


def run(options):
    """Every part asked for: name -> figures."""
    pixels, test, source = images(options.source, options.folder)
    pixels = pixels[: options.n]
    latents = principal(pixels) if options.latents is None else live(options.latents)[: options.n]
    parts = {}
    d = latents.shape[1]
    for k in (4, 8):
        parts[f"greedy latents d={d} K=128 k={k}"] = lambda k=k: greedy(
            latents, start_atoms(latents, 128), k, options.rounds
        )
    for k in (5, 10, 20):
        parts[f"greedy pixels d={pixels.shape[1]} K=256 k={k}"] = lambda k=k: greedy(
            pixels, start_atoms(pixels, 256), k, options.rounds
        )
    few = slice(options.n // 6)
    for alpha in (0.3, 0.1):
        parts[f"lasso latents d={d} K=128 alpha={alpha}"] = lambda a=alpha: lasso_codes(
            latents[few], start_atoms(latents, 128), a, options.rounds
        )
    for n_atoms in (256, 512):
        parts[f"lasso pixels K={n_atoms} alpha=1"] = lambda n_atoms=n_atoms: lasso_codes(
            pixels[few], start_atoms(pixels, n_atoms), 1.0, options.rounds
        )
    parts["two threads, latents k=8"] = lambda: two_threads(latents, start_atoms(latents, 128), 8)
    parts["two threads, pixels k=10"] = lambda: two_threads(pixels, start_atoms(pixels, 256), 10)
    parts["many latents"] = lambda: million(start_atoms(latents, 128), d)
    for word, made in optional(options, pixels, test).items():
        if word in options.only:
            parts |= made
    wanted = [w for w in options.only.split(",") if w]
    found = {
        name: part()
        for name, part in parts.items()
        if not wanted or any(w in name for w in wanted)
    }
    return {"images": source, **found}


def optional(options, pixels, test):
    """Parts that take minutes and must be asked for by name."""
    from amortised import amortised  # beside this file
    from learning import learning, live_latents, settings

    def live():
        if options.latents is None:
            joint = principal(np.concatenate([pixels, test]))
            return {"latents": "principal components"} | live_latents(
                (joint[: len(pixels)], joint[len(pixels) :]), seeds=options.seeds
            )
        from vaesc.latents import open_latents

        store = open_latents(options.latents)
        both = store.latents("train"), store.latents("test")
        return {"latents": "of a VAE"} | live_latents(both, seeds=options.seeds)

    import numpy as np

    return {
        "learning": {
            "learning pixels K=256 k=10": lambda: learning(
                pixels, test, options.seconds, options.seeds, options.jobs
            )
        },
        "bytes": {
            f"bytes pixels K=256 k={k}": lambda k=k: bytes_codes(
                pixels, start_atoms(pixels, 256), k, options.rounds
            )
            for k in (5, 10, 20)
        },
        "settings": {
            "settings [cpu s, omp mse, ols mse]": lambda: settings(
                pixels, options.seconds, options.seeds
            )
        },
        "live": {"live latents": live},
        "amortised": {
            "amortised latents K=128 k=4": lambda: amortised(
                *np.split(principal(np.concatenate([pixels, test])), [len(pixels)]),
                options.figure,
                rounds=options.rounds,
            )
        },
    }


def table(result):
    """Figures as indented text, three digits."""
    lines = []

    def walk(value, name, depth):
        if isinstance(value, dict):
            lines.append(f"{'  ' * depth}{name}")
            for key, inner in value.items():
                walk(inner, key, depth + 1)
        else:
            lines.append(
                f"{'  ' * depth}{name}: {value:.4g}"
                if isinstance(value, float)
                else f"{'  ' * depth}{name}: {value}"
            )

    for name, part in result.items():
        walk(part, name, 0)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
