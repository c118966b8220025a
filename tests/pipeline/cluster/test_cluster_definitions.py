"""The cluster definitions: ours by our schema, Ray's and KubeRay's by theirs, and all of them by each other."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipeline.config.project import Project

TESTS = Path(__file__).parents[2]
LAUNCH = TESTS.parent / "configs/clusters/launch"
# The API of KubeRay 1.7 (helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml), without its descriptions.
SCHEMA = TESTS / "schemas/rayjob_v1.json.gz"


def closed(schema: Any) -> Any:
    """A Kubernetes schema that refuses unknown keys, which the server would drop without a word."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    return found


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    schema = closed(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.fixture(scope="module")
def autoscaler() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "aws.yaml").read_text())


@pytest.mark.parametrize("name", sorted(p.stem for p in LAUNCH.parent.glob("*.yaml")))
def test_ours(repository: Path, name: str) -> None:
    Project(repository).cluster(name)


def test_kuberays(rayjob: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(rayjob, schema)


def test_a_wrong_key_of_kuberays_is_found(rayjob: dict[str, Any], schema: dict[str, Any]) -> None:
    rayjob = json.loads(json.dumps(rayjob))
    rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagine"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagine"):
        jsonschema.validate(rayjob, schema)


def test_kuberays_ray_is_the_one_that_is_pinned(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    images = re.findall(r"rayproject/ray:([\d.]+)-", json.dumps(cluster))
    assert images == [ray.__version__] * 2


def test_rays(autoscaler: dict[str, Any]) -> None:
    validate_config(prepare_config(autoscaler))


def test_a_node_has_what_a_run_needs(repository: Path, rayjob: dict[str, Any]) -> None:
    """Else a run would wait for ever."""
    run = Project(repository).cluster("nodes_of_8_gpus")
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= run.workers * run.gpus_per_worker
    assert int(limits["cpu"]) >= run.workers * run.cpus_per_worker
    assert run.storage is not None
    assert run.storage.startswith("/shared/")


def test_nothing_is_open_to_the_world(rayjob: dict[str, Any], autoscaler: dict[str, Any]) -> None:
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for command in autoscaler["head_start_ray_commands"][1:] + autoscaler["worker_start_ray_commands"][1:]:
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in " ".join(autoscaler["head_start_ray_commands"])
