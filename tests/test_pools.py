"""Work pools: what Prefect's own workers make of our templates."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import yaml
from docker.models.containers import _create_container_args
from jsonschema import Draft202012Validator
from prefect.workers.process import ProcessJobConfiguration
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from deployments import templates
from tasks.pools import EXPECTED, KINDS, PULL, job_variables, template_of
from vaesc.resources import Requests

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deployments" / "pools"
PREFECT_YAML = ROOT / "deployments" / "prefect.yaml"
NEEDS = Requests(memory_bytes=1536 << 20, cpus=4, gpus=2)
CONFIGURATIONS = {
    "process": ProcessJobConfiguration,
    "docker": DockerWorkerJobConfiguration,
    "kubernetes": KubernetesWorkerJobConfiguration,
}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|API_KEY|AWS_|TOKEN")


def rendered(kind, variables=None):
    """Return the job configuration that a worker of this type makes of our template."""
    template = template_of(kind, FOLDER)
    values = job_variables(kind, NEEDS) if variables is None else variables
    return asyncio.run(
        CONFIGURATIONS[kind].from_template_and_values(template, values, client=object())
    )


@pytest.fixture
def flow_run():
    from uuid import uuid4

    from prefect.client.schemas.objects import FlowRun

    return FlowRun(flow_id=uuid4(), name="retrain-fashion-mnist")


@pytest.fixture
def job(flow_run):
    """The manifest that a Kubernetes worker sends to the cluster."""
    configuration = rendered("kubernetes")
    configuration.prepare_for_flow_run(flow_run)
    return configuration.job_manifest


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_what_the_installed_workers_bring_and_ours(kind):
    """After an update of Prefect: `python -m deployments.templates`, and look at the diff."""
    made = templates.text_of(templates.TEMPLATES[kind]())
    assert (FOLDER / f"{kind}.json").read_text() == made


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_declares_what_it_uses_and_its_defaults_fit(kind):
    template = template_of(kind, FOLDER)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    schema = template["variables"]
    Draft202012Validator.check_schema(schema)
    assert used == set(schema["properties"])
    defaults = {k: v["default"] for k, v in schema["properties"].items() if "default" in v}
    Draft202012Validator(schema).validate(defaults)
    Draft202012Validator(schema).validate(defaults | job_variables(kind, NEEDS))


def test_a_process_pool_is_what_it_always_was():
    from prefect.workers.process import ProcessWorker

    before = ProcessWorker.get_default_base_job_template()
    before["variables"]["properties"]["env"]["default"] = EXPECTED
    assert json.dumps(template_of("process", FOLDER)) == json.dumps(before)
    assert template_of("process", Path("nowhere")) == ProcessWorker.get_default_base_job_template()


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_gets_what_vaesc_expects_of_prefect_and_no_secret(kind):
    configuration = rendered(kind)
    assert configuration.env.items() >= EXPECTED.items()
    assert not [name for name in configuration.env if SECRET.search(name)]
    text = (FOLDER / f"{kind}.json").read_text()
    assert "prefect.blocks" not in text
    assert "://" not in re.sub(r"https://docker-py[^)\"]*", "", text), "an address"


def test_threads_are_as_many_as_the_cores_asked_for():
    for kind in ("docker", "kubernetes"):
        assert rendered(kind).env["OMP_NUM_THREADS"] == "4"
        assert rendered(kind).env["VAESC_HOME"] == "/data"
    assert "OMP_NUM_THREADS" not in rendered("process").env


def test_a_container_has_its_requests_and_little_else(flow_run):
    configuration = rendered("docker")
    configuration.prepare_for_flow_run(flow_run)
    given = DockerWorker._build_container_settings(None, NoDocker(), configuration)
    made = _create_container_args({**given, "version": "1.47", "detach": True})
    host = made["host_config"]
    assert host["Memory"] == 1536 << 20
    assert host["CpuShares"] == 4096
    assert host["ShmSize"] == 1 << 30
    assert host["DeviceRequests"] == [
        {"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["Init"]
    assert set(host["Tmpfs"]) == {"/tmp"}
    assert host["Binds"] == ["vaesc-data:/data"]
    assert not host.get("Privileged")
    assert made["user"] == "1000:1000"
    assert made["image"] == templates.IMAGE


class NoDocker:
    """What is asked of a Docker daemon before a container is created."""

    def version(self):
        return {"Version": "27.0.0"}


def test_a_container_without_requests_is_not_limited():
    create = rendered("docker", {}).container_create_kwargs
    assert "nano_cpus" not in create
    assert create["device_requests"] == []


def test_a_pod_has_its_requests_and_its_gpus(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "1536Mi"},
        "limits": {"memory": "1536Mi", "nvidia.com/gpu": 2},
    }
    assert container["image"] == templates.IMAGE


def test_a_pod_without_gpus_asks_for_none():
    variables = job_variables("kubernetes", Requests(memory_bytes=1 << 30, cpus=1, gpus=0))
    (container,) = pod_of(rendered("kubernetes", variables))["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


def pod_of(configuration):
    return configuration.job_manifest["spec"]["template"]["spec"]


def test_secrets_come_from_one_secret_by_reference(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": "vaesc", "optional": True}},
        {"secretRef": {"name": "vaesc"}},
    ]
    assert not [e for e in container["env"] if SECRET.search(e["name"])]


def test_a_pod_may_do_little(job):
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounted == {"data": "/data", "tmp": "/tmp", "shm": "/dev/shm"}
    assert [v["name"] for v in pod["volumes"]] == ["data", "tmp", "shm"]


def test_prefect_not_kubernetes_runs_again_what_was_evicted(job):
    spec = job["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 120
    environment = {e["name"]: e["value"] for e in spec["template"]["spec"]["containers"][0]["env"]}
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


def test_a_claim_takes_the_place_of_the_empty_folder():
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "vaesc"}}
    pod = pod_of(rendered("kubernetes", {"data_volume": claim, "shm_size": "8Gi"}))
    assert pod["volumes"][0] == claim
    assert pod["volumes"][2]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


def test_a_run_and_its_dask_workers_share_one_volume_as_the_page_says():
    """Shards are files: with a folder of its own each worker would be refused."""
    page = (ROOT / "docs/scale.md").read_text().partition("**Dask.**")[2]
    run, workers = re.findall(r"```yaml\n(.*?)```", page, re.S)
    pod = pod_of(rendered("kubernetes", yaml.safe_load(run)["job_variables"]))
    claim, theirs = yaml.safe_load_all(workers)
    (container,), (worker,) = pod["containers"], theirs["spec"]["containers"]

    assert claim["kind"] == "PersistentVolumeClaim"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert pod["volumes"][0] == theirs["spec"]["volumes"][0]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    assert {"name": "data", "mountPath": "/data"} in worker["volumeMounts"]
    assert {each["name"]: each["value"] for each in worker["env"]}["VAESC_HOME"] == "/data"
    assert theirs["spec"]["securityContext"].items() <= pod["securityContext"].items()
    assert [str(each.popitem()[1]["name"]) for each in worker["envFrom"]] == ["vaesc"] * 2


def test_the_image_is_what_the_templates_expect():
    lines = (FOLDER.parent / "Dockerfile").read_text()
    assert f"useradd --create-home --uid {templates.USER} vaesc" in lines
    assert all(step["directory"] == "/app" for each in PULL for step in each.values())
    assert "WORKDIR /app\n" in lines
    assert re.search(r"^ARG EXTRAS=stack$", lines, re.M)
    assert f"image: {templates.IMAGE}\n" in (FOLDER.parent / "compose.yaml").read_text()


WORKER = list(yaml.safe_load_all((FOLDER / "worker.yaml").read_text()))


def test_the_worker_may_only_make_jobs_and_watch_them():
    role = next(each for each in WORKER if each["kind"] == "Role")
    allowed = {r: set(rule["verbs"]) for rule in role["rules"] for r in rule["resources"]}
    assert set(allowed) == {"jobs", "pods", "pods/log", "events"}
    assert allowed["jobs"] == {"get", "list", "watch", "create", "delete"}
    assert allowed["pods/log"] == {"get"}


def test_the_login_at_prefect_reaches_a_job_by_reference(flow_run, monkeypatch):
    """With the settings of worker.yaml, by the worker's own code."""
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
    from prefect_kubernetes.settings import KubernetesSettings
    from prefect_kubernetes.worker import KubernetesWorker

    deployment = next(each for each in WORKER if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each.get("value", "default"))
    settings = KubernetesSettings()
    assert settings.observer.namespaces == {"default"}
    configuration = rendered("kubernetes")
    with temporary_settings({PREFECT_API_AUTH_STRING: "vaesc:hunter2"}):
        configuration.prepare_for_flow_run(flow_run)
    assert "hunter2" in json.dumps(configuration.job_manifest)
    replace = KubernetesWorker._replace_env_variable_with_secret(
        None, env_variable_name="PREFECT_API_AUTH_STRING", configuration=configuration,
        secret_name=settings.worker.api_auth_string_secret_name,
        secret_key=settings.worker.api_auth_string_secret_key,
    )  # fmt: skip
    asyncio.run(replace)
    assert "hunter2" not in json.dumps(configuration.job_manifest)
    (pod,) = configuration.job_manifest["spec"]["template"]["spec"]["containers"]
    assert {"secretKeyRef": {"name": "vaesc", "key": "PREFECT_API_AUTH_STRING"}} in [
        each.get("valueFrom") for each in pod["env"]
    ]
