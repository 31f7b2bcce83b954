"""Dictionary learning on pixels: test error at fixed k against CPU seconds, ours and the peers'.

Used by benchmarks/sparse.py (``--only learning``). Everybody learns from the same images, by the
defaults of `learn_dictionary` for us, for the peers by the settings that did best in earlier
measurements (lasso with alpha = 1; SPAMS' mode 3 at the same k). A tenth of the time, or a pass,
at a time, the test images are coded by our OMP and OLS; that time does not count.
"""

import time

import numpy as np

K, LEVEL = 256, 10


def learning(X, test, seconds, seeds):
    """Traces and summary: how much sooner ours reaches each peer's best, and who ends lower."""
    traces = {}
    for seed in range(seeds):
        for name, learner in LEARNERS.items():
            traces[f"{name}, seed {seed}"] = learner(X, test, seconds, seed)
    summary = {}
    for name in list(LEARNERS)[1:]:
        for which, rule in ((1, "omp"), (2, "ols")):
            sooner = []
            for seed in range(seeds):
                ours, theirs = traces[f"ours, seed {seed}"], traces[f"{name}, seed {seed}"]
                best = min(point[which] for point in theirs)
                spent = next(point[0] for point in theirs if point[which] == best)
                reached = [point[0] for point in ours if point[which] <= best]
                sooner.append(spent / reached[0] if reached else 0.0)
            summary[f"sooner than {name}, {rule}"] = min(sooner)
    return {"traces [cpu s, omp mse, ols mse]": traces, **summary}


def errors(dictionary, test):
    """Test errors per pixel by OMP and by OLS codes."""
    from vaesc.sparse import orthogonal_matching_pursuit

    atoms = np.ascontiguousarray(dictionary, np.float32)
    atoms /= np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)
    return [
        float(
            np.square(
                test - orthogonal_matching_pursuit(test, atoms, LEVEL, selection=s) @ atoms
            ).mean()
        )
        for s in ("omp", "ols")
    ]


def ours(X, test, seconds, seed):
    """Default settings; a pass at a time, through the state that `learn_dictionary` drives."""
    from vaesc.sparse import learn_dictionary

    learn_dictionary(X[:64], n_atoms=4, n_nonzero_coefs=2, seed=0, max_epochs=1)  # compiles
    trace, spent, dictionary = [], 0.0, {}
    for passes in (1, 2, 4, 8, 14):
        start = time.process_time()
        dictionary = learn_dictionary(
            X, n_atoms=K, n_nonzero_coefs=LEVEL, seed=seed, max_epochs=passes, n_threads=1
        ).dictionary
        spent = time.process_time() - start
        trace.append([spent, *errors(dictionary, test)])
        if spent > seconds:
            break
    return trace


def scikit_learn(X, test, seconds, seed):
    """MiniBatchDictionaryLearning by coordinate descent, alpha = 1, batches of 256."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    rng = np.random.default_rng(seed)
    model = MiniBatchDictionaryLearning(
        K, alpha=1.0, fit_algorithm="cd", batch_size=256, random_state=seed,
        dict_init=X[rng.choice(len(X), K, replace=False)].copy(),
    )  # fmt: skip
    trace, spent, step = [], 0.0, 0
    while spent < seconds:
        goal = spent + seconds / 10
        while spent < goal:
            batch = X[rng.choice(len(X), 256, replace=False)]
            start = time.process_time()
            model.partial_fit(batch)
            spent += time.process_time() - start
            step += 1
        trace.append([spent, *errors(model.components_, test)])
    return trace


def _spams(X, test, seconds, seed, **options):
    import spams

    columns = np.asfortranarray(X.T)
    start_atoms = X[np.random.default_rng(seed).choice(len(X), K, replace=False)]
    atoms = np.asfortranarray(start_atoms.T / np.linalg.norm(start_atoms, axis=1))
    trace, spent, model = [], 0.0, None
    while spent < seconds:
        start = time.process_time()
        atoms, model = spams.trainDL(
            columns, return_model=True, model=model, D=atoms, batchsize=512, numThreads=1,
            iter=-max(1, int(seconds / 8)), verbose=False, **options,
        )  # fmt: skip
        spent += time.process_time() - start
        trace.append([spent, *errors(atoms.T, test)])
    return trace


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
