"""The base job templates in ``deployments/pools``: what Prefect's workers have, and ours on top.

::

    python -m deployments.templates          # writes them; needs `pip install -e .[pools]`

Each is what Prefect's worker of that type brings, plus what vaesc expects: of Prefect
(:data:`tasks.pools.EXPECTED`), of the machine (cores, memory, GPUs, shared memory), and of
whoever runs other people's code (no root, no capabilities, no token, nothing writable but the data
and ``/tmp``). The files are what `vaesc deploy` reads, so that who deploys needs no extra; a test
writes them anew and compares. No template holds a secret or an address: Kubernetes takes them from
one Secret and one ConfigMap, Docker from Prefect's blocks or the pool's environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.pools import with_environment

FOLDER = Path(__file__).parent / "pools"
IMAGE = "vaesc:0.1.0"
"""What ``deployments/Dockerfile`` is built as, see compose.yaml."""
USER = 1000
"""The image's user `vaesc`."""

Template = dict[str, Any]


def process() -> Template:
    """Runs are processes beside the worker: they have its machine, its files, its environment."""
    from prefect.workers.process import ProcessWorker

    return with_environment(ProcessWorker.get_default_base_job_template())


def docker() -> Template:
    """Runs are containers beside the worker's Docker."""
    from prefect_docker.worker import DockerWorker

    template = with_environment(DockerWorker.get_default_base_job_template(), **_IN_THE_IMAGE)
    # Prefect's docstring, for developers; the pool's page in the UI would show all of it.
    template["variables"].pop("description", None)
    _variable(template, "image")["default"] = IMAGE
    _variable(template, "image_pull_policy")["default"] = "IfNotPresent"
    _variable(template, "volumes")["default"] = ["vaesc-data:/data"]
    _add(
        template,
        shm_size=_text("Shared memory", "Size of /dev/shm, through which ranks exchange.", "1g"),
        cpu_shares=_number(
            "CPU shares", "Weight against other containers where cores are short; 1024 a core."
        ),
        nano_cpus=_number(
            "CPU limit", "Billionths of a core that the container may use at most; none: all."
        ),
        device_requests=_list(
            "Devices", 'GPUs: [{"count": 1, "capabilities": [["gpu"]]}]; needs NVIDIA\'s toolkit.'
        ),
    )
    # Not for a deployment to loosen: only who may change the pool may change these.
    del template["variables"]["properties"]["container_create_kwargs"]
    del template["variables"]["properties"]["privileged"]
    template["job_configuration"] |= {
        "privileged": False,
        "container_create_kwargs": {
            "user": f"{USER}:{USER}",
            "read_only": True,
            # Compiled kernels lie there and are mapped, hence exec.
            "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            # Prefect says what runs again, and checkpoints where it goes on.
            "restart_policy": {"Name": "no"},
            "init": True,
            "shm_size": "{{ shm_size }}",
            "cpu_shares": "{{ cpu_shares }}",
            "nano_cpus": "{{ nano_cpus }}",
            "device_requests": "{{ device_requests }}",
        },
    }
    return template


def kubernetes() -> Template:
    """Runs are jobs of one pod each, which Kubernetes never starts again: Prefect does."""
    from prefect_kubernetes.worker import KubernetesWorker

    template = with_environment(KubernetesWorker.get_default_base_job_template(), **_IN_THE_IMAGE)
    template["variables"].pop("description", None)
    _variable(template, "image")["default"] = IMAGE
    _variable(template, "finished_job_ttl")["default"] = 86_400
    # A node that must first pull the image, or start, takes minutes.
    _variable(template, "pod_watch_timeout_seconds")["default"] = 900
    data = {"name": "data", "emptyDir": {}}
    _add(
        template,
        gpus=_number("GPUs", "Whole GPUs of the pod (nvidia.com/gpu); none if left out."),
        shm_size=_text("Shared memory", "Size of /dev/shm; counts as the pod's memory.", "256Mi"),
        secret=_text("Secret", "Its keys are environment variables: AWS_..., MLFLOW_...", "vaesc"),
        config_map=_text("ConfigMap", "The same of what is no secret: addresses.", "vaesc"),
        data_volume={
            "title": "Data volume",
            "type": "object",
            "description": "Volume named data, for VAESC_HOME; a claim keeps what a pod made.",
            "default": data,
        },
        grace_seconds=_number(
            "Grace period", "Seconds from SIGTERM to SIGKILL, to end what is being written.", 120
        ),
        node_selector={
            "title": "Node selector",
            "type": "object",
            "description": "Labels that the pod's node must have.",
            "default": {},
        },
        tolerations=_list("Tolerations", "Of taints, such as those of nodes with GPUs."),
        image_pull_secrets=_list("Pull secrets", 'For the image: [{"name": "..."}].'),
    )
    job = template["job_configuration"]["job_manifest"]["spec"]
    job["template"]["spec"] |= _POD
    (container,) = job["template"]["spec"]["containers"]
    container["resources"]["limits"]["nvidia.com/gpu"] = "{{ gpus }}"
    container |= _CONTAINER
    return template


_IN_THE_IMAGE = {
    "VAESC_HOME": "/data",
    # Caches of compiled kernels and fonts, and Prefect's own, where anybody may write.
    "HOME": "/tmp",
}
_POD = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "terminationGracePeriodSeconds": "{{ grace_seconds }}",
    "nodeSelector": "{{ node_selector }}",
    "tolerations": "{{ tolerations }}",
    "imagePullSecrets": "{{ image_pull_secrets }}",
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "volumes": [
        "{{ data_volume }}",
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "{{ shm_size }}"}},
    ],
}
_CONTAINER = {
    "envFrom": [
        # Addresses may also be in the pool's environment; without the Secret no pod starts.
        {"configMapRef": {"name": "{{ config_map }}", "optional": True}},
        {"secretRef": {"name": "{{ secret }}"}},
    ],
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "volumeMounts": [
        {"name": "data", "mountPath": "/data"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ],
}


def _variable(template: Template, name: str) -> dict[str, Any]:
    found: dict[str, Any] = template["variables"]["properties"][name]
    return found


def _add(template: Template, **variables: dict[str, Any]) -> None:
    template["variables"]["properties"] |= variables


def _text(title: str, description: str, default: str) -> dict[str, Any]:
    return {"title": title, "type": "string", "description": description, "default": default}


def _number(title: str, description: str, default: int | None = None) -> dict[str, Any]:
    """Describe an integer; without a default, what refers to it is left out of the job."""
    variable = {"title": title, "type": "integer", "minimum": 0, "description": description}
    return variable if default is None else {**variable, "default": default}


def _list(title: str, description: str) -> dict[str, Any]:
    variable = {"title": title, "type": "array", "items": {"type": "object"}}
    return {**variable, "description": description, "default": []}


TEMPLATES = {"process": process, "docker": docker, "kubernetes": kubernetes}
"""Type of a work pool -> what makes its template."""


def text_of(template: Template) -> str:
    """Return a template as its file holds it."""
    return json.dumps(template, indent=2) + "\n"


def main() -> None:
    """Write every template."""
    FOLDER.mkdir(exist_ok=True)
    for kind, make in TEMPLATES.items():
        (FOLDER / f"{kind}.json").write_text(text_of(make()), encoding="utf-8")


if __name__ == "__main__":
    main()
