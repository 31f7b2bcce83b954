"""Amortised coders between accuracy and speed: networks of some depths beside the exact codes.

Used by benchmarks/sparse.py (``--only amortised --figure FILE``); needs torch, and no peers. Every
coder codes the same held-out samples in the same learned dictionary, at the same level, one after
the other, round after round, on one thread; rates are per CPU second.
"""

import time

import numpy as np

DEPTHS = (0, 1, 3, 6)
"""Shrinkage steps after the first of each network."""


def amortised(train, test, figure=None, *, n_atoms=128, k=4, rounds=5, epochs=10):
    """Test error and speed of each coder; drawn into `figure` if it is given.

    Args:
        train: Samples that the dictionary and the networks are learned from, shape (n, d).
        test: Samples to code.
        figure: PNG to write.
        n_atoms: Atoms K.
        k: Sparsity level.
        rounds: Timed rounds; the median counts.
        epochs: Passes of distillation.
    """
    import torch

    from vaesc.sparse import distil, learn_dictionary, orthogonal_matching_pursuit

    torch.set_num_threads(1)
    atoms = learn_dictionary(train, n_atoms=n_atoms, n_nonzero_coefs=k, seed=0).dictionary
    coders = {
        rule: lambda rule=rule: orthogonal_matching_pursuit(
            test, atoms, k, selection=rule, n_threads=1
        )
        for rule in ("omp", "ols")
    }
    for depth in DEPTHS:
        net = distil(train, atoms, k, seed=0, n_layers=depth, max_epochs=epochs)
        coders[f"network, {depth} steps"] = lambda net=net: net.encode(test)
    energy = np.square(test).sum()
    fvu = {n: float(np.square(test - c() @ atoms).sum() / energy) for n, c in coders.items()}
    rates = {name: [] for name in coders}
    for _ in range(rounds):
        for name, code in coders.items():
            start = time.process_time()
            code()
            rates[name].append(len(test) / (time.process_time() - start))
    found = {
        name: {"fvu": fvu[name], "samples_per_cpu_second": float(np.median(rates[name]))}
        for name in coders
    }
    if figure is not None:
        draw(found, figure, f"Held-out samples, d = {test.shape[1]}, K = {n_atoms}, k = {k}")
    return found


def draw(found, figure, title):
    """Write the figure: error against rate, the exact codes beside the networks."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = sheet.subplots()
    for kind, marker in (("exact", "s"), ("network", "o")):
        rows = [v for n, v in found.items() if n.startswith("network") == (kind == "network")]
        axes.plot(
            [row["samples_per_cpu_second"] for row in rows], [row["fvu"] for row in rows],
            marker, label=kind,
        )  # fmt: skip
    for name, row in found.items():
        axes.annotate(
            name.replace("network, ", ""), (row["samples_per_cpu_second"], row["fvu"]),
            xytext=(5, 4), textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set(
        xscale="log", xlabel="samples per CPU second", ylabel="fraction of variance unexplained",
        title=title,
    )  # fmt: skip
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    sheet.savefig(figure, metadata={"Software": None})
