"""The pipeline with its store on S3: what one home made, another need not compute."""

import json
import os

import pytest
from object_storage import BUCKET
from project import STEPS, Project, artifacts, states, stop_server

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def homes(tmp_path_factory, moto):
    """Three empty homes, two of which share a bucket, and one Prefect server."""
    root = tmp_path_factory.mktemp("homes")
    alone = Project(root / "alone")
    local = alone.run()
    server = json.loads((alone.home / "prefect" / "server.json").read_text())["url"]
    shared = [Project(root / name, server) for name in ("first", "second")]
    for project in shared:
        project.env |= {**moto.environment, "VAESC_STORE": f"s3://{BUCKET}/team"}
    yield alone, local, shared
    stop_server(alone)


def test_the_second_home_computes_nothing_and_all_digests_are_those_of_a_local_run(homes, moto):
    alone, local, (first, second) = homes
    made, again = first.run(), second.run()
    assert set(states(made).values()) == {"computed"}
    assert states(again) == {
        name: "computed" if name == "register" else "cached" for name in STEPS
    }
    digests = [[(s["name"], s["digest"]) for s in run["steps"]] for run in (local, made, again)]
    assert digests[0] == digests[1] == digests[2]
    contents = [artifacts(project.home) for project in (alone, first, second)]
    assert contents[0] == contents[1] == contents[2]
    assert made["metrics"] == again["metrics"] == local["metrics"]
    checks = json.loads(second.vaesc("verify", "--json").stdout)
    assert checks["damaged"] == 0
    assert {(c["kind"], c["digest"]): c["content"] for c in checks["shared"]} == contents[0]
    listed = second.vaesc("gc", "--keep-days", "0")
    assert f"left out: s3://{BUCKET}/team" in listed.stdout
    assert listed.stdout.count("s3://") == 1
    secret = moto.environment["AWS_SECRET_ACCESS_KEY"].encode()
    for project in (first, second):
        for base, _, names in os.walk(project.home):
            for name in names:
                with open(os.path.join(base, name), "rb") as file:  # noqa: PTH123, PTH118
                    assert secret not in file.read(), name
