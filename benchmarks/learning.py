"""Dictionary learning at a fixed sparsity level: test error against CPU seconds, ours and peers'.

Used by benchmarks/sparse.py (``--only learning``). Everybody learns from the same training images,
on one thread, with one setting for all seeds: ours is the defaults of `learn_dictionary`; the
peers' is what did best in earlier measurements (lasso with alpha = 1; SPAMS' mode 3 at the same
k). Now and then the test images are coded by our OMP and our OLS; that time does not count. Each
learner has its share of the CPU seconds asked for.

SPAMS goes on from its model in calls of a few batches, each on freshly drawn samples: every call
starts from the same random numbers, and would see the same samples otherwise.
"""

import json
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

K, LEVEL, BATCH = 256, 10, 512
PASSES = 14
"""Most passes over the samples that ours takes."""
SHARE = {"ours": 0.5, "scikit-learn": 1.0, "spams lasso": 0.32, "spams mode 3": 0.32}
"""Part of ``--seconds`` that each learner may take."""
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Number of seeds -> Student's quantile for 95 % intervals."""
RULES = {"omp": 1, "ols": 2}
"""Rule the test is coded by -> its place in a trace point."""


def learning(X, test, seconds, seeds, jobs=1):
    """Traces of every learner and seed, and what they say.

    Args:
        X: Training samples, shape (n, d), float32.
        test: Test samples.
        seconds: CPU seconds of the longest learner; the others take their share of it.
        seeds: Number of seeds.
        jobs: Runs at a time, each a process on one thread.
    """
    tasks = [(name, seed) for seed in range(seeds) for name in LEARNERS]
    # Forked processes share the images.
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("fork"), max_tasks_per_child=None
    ) as pool:
        runs = [pool.submit(_run, name, X, test, seconds, seed) for name, seed in tasks]
        traces = {f"{n}, seed {s}": r.result() for (n, s), r in zip(tasks, runs, strict=True)}
    return {**summary(traces, seeds), "traces [cpu s, omp mse, ols mse]": traces}


def _run(name, X, test, seconds, seed):
    """One learner's trace; told on stderr as well, since an interrupted run keeps no other."""
    trace = LEARNERS[name](X, test, SHARE[name] * seconds, seed)
    print(json.dumps({f"{name}, seed {seed}": trace}), file=sys.stderr, flush=True)
    return trace


def summary(traces, seeds):
    """How much sooner ours reaches each peer's best, and how much lower it ends."""
    said = {}
    for rule, which in RULES.items():
        of = {n: [traces[f"{n}, seed {s}"] for s in range(seeds)] for n in LEARNERS}
        best = {n: [min(each, key=lambda p: p[which]) for each in of[n]] for n in of}
        said[f"lowest test mse, {rule}"] = {
            n: interval([point[which] for point in best[n]]) for n in best
        }
        for peer in list(LEARNERS)[1:]:
            pairs = list(zip(of["ours"], best[peer], strict=True))
            reached = [
                next((p[0] for p in ours if p[which] <= theirs[which]), None)
                for ours, theirs in pairs
            ]
            lower = [
                1 - a[which] / b[which] for a, b in zip(best["ours"], best[peer], strict=True)
            ]
            row = {"ends lower by": interval(lower)}
            if None not in reached:
                sooner = [b[0] / t for t, b in zip(reached, best[peer], strict=True)]
                row |= {
                    "our cpu s": interval(reached),
                    "its cpu s": interval([b[0] for b in best[peer]]),
                }
                row |= {"times sooner": interval(sooner, ratio=True)}
            else:
                row["times sooner"] = f"not reached by {reached.count(None)} of {seeds} seeds"
            said[f"against {peer}, {rule}"] = row
    return said


def interval(values, *, ratio=False):
    """Mean and 95 % interval over seeds (Student's t); of ratios the geometric ones."""
    x = np.log(values) if ratio else np.asarray(values, float)
    half = T95[len(x)] * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    back = np.exp if ratio else float
    found = {"mean": float(back(x.mean()))}
    if len(x) > 1:
        found |= {"low": float(back(x.mean() - half)), "high": float(back(x.mean() + half))}
    return found | {"seeds": [float(v) for v in values]}


def errors(dictionary, test):
    """Test errors per pixel by OMP and by OLS codes."""
    from vaesc.sparse import orthogonal_matching_pursuit

    atoms = np.ascontiguousarray(dictionary, np.float32)
    atoms = atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)
    return [
        float(
            np.square(
                test
                - orthogonal_matching_pursuit(test, atoms, LEVEL, selection=s, n_threads=1) @ atoms
            ).mean()
        )
        for s in RULES
    ]


def ours(X, test, seconds, seed, batch=BATCH, **setting):
    """`learn_dictionary` with its defaults, looked at within its first passes too."""
    from vaesc.sparse import learn_dictionary
    from vaesc.sparse._batches import Batches
    from vaesc.sparse._blocks import BlockRunner
    from vaesc.sparse._online import OnlineState
    from vaesc.sparse._start import start_dictionary

    learn_dictionary(X[:64], n_atoms=4, n_nonzero_coefs=2, seed=0, max_epochs=1)  # compiles
    trace, goal = [], 0.0
    start = time.process_time()
    rng = np.random.default_rng(seed)
    with BlockRunner(1) as runner:
        batches = Batches(X, batch, rng)
        state = OnlineState(
            dictionary=start_dictionary(batches.pool(K), K, rng, None), n_nonzero_coefs=LEVEL,
            **{"selection": "ols", "max_coherence": 0.98, **setting},
        )  # fmt: skip
        spent = time.process_time() - start
        for _ in range(PASSES):
            start = time.process_time()
            for rows in batches.epoch():
                state.step(rows, runner)
                now = spent + time.process_time() - start
                if now >= goal:
                    trace.append([now, *errors(state.dictionary, test)])
                    spent, goal = now, max(now + 0.1, now * 1.2)
                    start = time.process_time()
                    if spent > seconds:
                        return trace
            spent += time.process_time() - start
    trace.append([spent, *errors(state.dictionary, test)])
    return trace


SETTINGS = (
    {},
    {"batch": 256},
    {"batch": 1024},
    {"memory": 8.0},
    {"memory_growth": 0.01},
    {"memory_growth": 0.1},
    {"selection": "omp"},
)
"""Settings tried around the defaults."""


def settings(X, seconds, seeds=1):
    """Errors of held-out training images after `seconds`: what the defaults are chosen by.

    The test images take no part.
    """
    train, held_out = X[:-5000], X[-5000:]
    return {
        ", ".join(f"{k}={v}" for k, v in setting.items()) or "defaults": [
            ours(train, held_out, seconds, seed, **setting)[-1] for seed in range(seeds)
        ]
        for setting in SETTINGS
    }


def scikit_learn(X, test, seconds, seed):
    """MiniBatchDictionaryLearning by coordinate descent, alpha = 1, batches of 256."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    rng = np.random.default_rng(seed)
    model = MiniBatchDictionaryLearning(
        K, alpha=1.0, fit_algorithm="cd", batch_size=256, random_state=seed,
        dict_init=X[rng.choice(len(X), K, replace=False)].copy(),
    )  # fmt: skip

    def advance(goal):
        spent = 0.0
        while spent < goal:
            batch = X[rng.choice(len(X), 256, replace=False)]
            start = time.process_time()
            with warnings.catch_warnings(action="ignore"):  # of sweeps that did not converge
                model.partial_fit(batch)
            spent += time.process_time() - start
        return spent, model.components_

    return _peer(advance, test, seconds)


def _peer(advance, test, seconds, points=14):
    """Trace a peer at times that grow by a constant factor, up to `seconds`."""
    trace, spent = [], 0.0
    for goal in np.geomspace(seconds / 60, seconds, points):
        if goal > spent:
            more, dictionary = advance(goal - spent)
            spent += more
            trace.append([spent, *errors(dictionary, test)])
    return trace


def _spams(X, test, seconds, seed, **options):
    import spams

    rng = np.random.default_rng(seed)
    start_atoms = X[rng.choice(len(X), K, replace=False)]
    state = {
        "atoms": np.asfortranarray(start_atoms.T / np.linalg.norm(start_atoms, axis=1)),
        "model": None,
        "pace": 0.1,
    }

    def advance(goal):
        spent = 0.0
        while spent < goal:
            batches = int(np.clip((goal - spent) / state["pace"], 4, len(X) // BATCH))
            rows = rng.choice(len(X), batches * BATCH, replace=False)
            columns = np.asfortranarray(X[rows].T)
            start = time.process_time()
            state["atoms"], state["model"] = spams.trainDL(
                columns, return_model=True, model=state["model"], D=state["atoms"],
                batchsize=BATCH, numThreads=1, iter=batches, verbose=False, **options,
            )  # fmt: skip
            more = time.process_time() - start
            state["pace"] = more / batches
            spent += more
        return spent, state["atoms"].T

    return _peer(advance, test, seconds)


def spams_lasso(X, test, seconds, seed):
    """SPAMS' online learning with lasso codes, lambda = 1."""
    return _spams(X, test, seconds, seed, mode=2, lambda1=1.0)


def spams_greedy(X, test, seconds, seed):
    """SPAMS' online learning with its greedy codes, at the level the test is coded at."""
    return _spams(X, test, seconds, seed, mode=3, lambda1=LEVEL)


LEARNERS = {
    "ours": ours,
    "scikit-learn": scikit_learn,
    "spams lasso": spams_lasso,
    "spams mode 3": spams_greedy,
}


def live_latents(latents, levels=(2, 3, 4), n_atoms=128, live=11, seeds=3):
    """What learning brings on latents, beside a dictionary of Gaussian noise.

    A VAE leaves some dimensions collapsed; those that vary least are dropped. The control is
    learned on Gaussian samples of the same mean and covariance: what it reaches needs no structure
    beyond the second moments.

    Args:
        latents: Training and test latents, or what stands for them, shape (n, d) each.
        levels: Sparsity levels.
        n_atoms: Atoms K.
        live: Dimensions to keep, those of the largest variance; or fewer if no more have
            variance above 0.01 (Burda et al.).
        seeds: Number of seeds.
    """
    from vaesc.sparse import learn_dictionary, orthogonal_matching_pursuit

    train, test = latents
    variance = train.var(axis=0)
    kept = np.sort(np.argsort(-variance)[: min(live, int((variance > 0.01).sum()))])
    mean = train[:, kept].mean(axis=0)
    train, test = (np.ascontiguousarray(part[:, kept] - mean, np.float32) for part in latents)
    root = np.linalg.cholesky(np.cov(train.T, dtype=np.float64) + 1e-9 * np.eye(len(kept)))
    said = {"live dimensions": len(kept)}
    for k in levels:
        fvu = {"learned": [], "of noise": []}
        for seed in range(seeds):
            noise = np.random.default_rng(seed + 1000).standard_normal(train.shape) @ root.T
            for name, X in (("learned", train), ("of noise", noise.astype(np.float32))):
                atoms = learn_dictionary(
                    X, n_atoms=n_atoms, n_nonzero_coefs=k, seed=seed, max_epochs=5
                ).dictionary
                codes = orthogonal_matching_pursuit(test, atoms, k, selection="ols")
                fvu[name].append(
                    float(np.square(test - codes @ atoms).sum() / np.square(test).sum())
                )
        said[f"test fvu, k={k}"] = {name: interval(each) for name, each in fvu.items()}
    return said
