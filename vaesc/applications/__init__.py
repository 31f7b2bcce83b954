"""What a VAE is for, each as a capability of the registered model, measured beside its baselines.

================= ============================================== ==============================
application       the model is to                                module
================= ============================================== ==============================
generation        draw new images                                :mod:`.generation`
representation    give features for classes and clusters         :mod:`.representation`
anomaly           find images unlike its own                     :mod:`.anomaly`
compression       be a codec                                     :mod:`.compression`
semi_supervised   learn classes from few labels                  :mod:`.semi_supervised`
================= ============================================== ==============================

Each module has one function ``apply(config, subject) -> Findings`` (:mod:`.findings`), is a step
of the pipeline if a run's ``applications`` name it, and leaves in its artifact what the report
shows, and what the registered model needs to do the same elsewhere (:mod:`vaesc.parts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaesc.progress import SILENT, Listener

if TYPE_CHECKING:
    from vaesc.applications.findings import Findings


def apply(
    name: str,
    config: Any,  # noqa: ANN401 - the application's section of the config
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    seed: int,
    n_nonzero_coefs: int,
    window_bytes: int,
    device: str = "auto",
    block_size: int = 8192,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Put the model of a run to one use, and write what came of it into `folder`.

    Args:
        name: The application.
        config: Its settings.
        inputs: Folders of the artifacts ``dataset``, ``vae``, ``latents``, ``dictionary``, and
            ``refined`` if the run refines: its model is then the one that is registered.
        folder: Empty folder to write into.
        seed: The run's seed.
        n_nonzero_coefs: Sparsity level of the registered model.
        window_bytes: Images shuffled together where networks are trained on all of them.
        device: Where torch computes.
        block_size: Images held in memory at once; no result depends on it.
        listener: Hears of progress.

    Returns:
        Summary: ``application``, ``metrics`` and ``sentence``.
    """
    from vaesc.applications.findings import write_findings
    from vaesc.applications.subject import open_subject
    from vaesc.applications.threads import one_thread_everywhere

    with one_thread_everywhere():
        subject = open_subject(
            inputs, folder, seed=seed, n_nonzero_coefs=n_nonzero_coefs, device=device,
            block_size=block_size, window_bytes=window_bytes, listener=listener,
        )  # fmt: skip
        module = import_module(f"vaesc.applications.{name}")
        findings: Findings = module.apply(config, subject)
        write_findings(findings, folder)
    return {
        "application": name, "metrics": dict(findings.metrics()), "sentence": findings.sentence,
    }  # fmt: skip
