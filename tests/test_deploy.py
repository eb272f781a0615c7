"""The deployment files, checked without a cluster: schemas, versions, names that must agree, times that add up, keys.

What a cluster alone can tell (the image builds, the operator accepts every field) is not tested here.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.spec.loader import parse_spec

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
BASE_IMAGE = "rayproject/ray-llm:2.60.0-py312-cu130"
KUBERAY_NAME_LIMIT = 47
"""Longest name of a RayJob; KubeRay derives those of pods and services from it."""
SECRETS = re.compile(
    r"sk-[A-Za-z0-9_-]{8,}|hf_[A-Za-z0-9]{8,}|A(?:KI|SI)A[A-Z0-9]{12,}|-----BEGIN|eyJ[A-Za-z0-9_-]{16,}"
    r"|(?i:api_?key|secret_access_key|token|password)\s*[:=]\s*['\"]?(?!token\b)[A-Za-z0-9+/_-]{16,}"
)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def one(path: Path) -> dict[str, Any]:
    (document,) = documents(path)
    return document


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return one(DEPLOY / "rayjob.yaml")


@pytest.fixture(scope="module")
def cronjob() -> dict[str, Any]:
    return documents(DEPLOY / "cronjob.yaml")[0]


def pods(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Group name → pod spec of head and workers."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]} | {g["groupName"]: g for g in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def launcher(cronjob: dict[str, Any]) -> dict[str, Any]:
    """Pod spec of the CronJob."""
    spec: dict[str, Any] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def nodes(value: Any) -> list[dict[str, Any]]:
    """Every mapping inside a document."""
    if isinstance(value, list):
        return [found for item in value for found in nodes(item)]
    if not isinstance(value, dict):
        return []
    return [value, *(found for item in value.values() for found in nodes(item))]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_kubernetes_objects(path: Path) -> None:
    for document in documents(path):
        assert document["apiVersion"]
        assert document["kind"]


# --- cluster.yaml


def test_cluster_file_fits_ray_schema() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(one(ROOT / "cluster.yaml"))


def test_cluster_file_passes_rays_own_checks() -> None:
    """As `ray up` does before it talks to AWS: defaults filled in, then validated."""
    prepared = prepare_config(one(ROOT / "cluster.yaml"))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"]["CPU"] == 0
    workers = {name: kind for name, kind in types.items() if name != prepared["head_node_type"]}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert [kind["resources"].get("GPU", 0) > 0 for kind in workers.values()].count(True) == 1
    assert sum(kind["max_workers"] for kind in workers.values()) <= prepared["max_workers"]
    assert "cd /home/ray/headgate && sh deploy/install.sh" in types["gpu"].get(
        "worker_setup_commands", prepared["worker_setup_commands"]
    )


# --- versions


def test_images_pin_the_ray_that_pyproject_allows(rayjob: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = next(r for r in map(Requirement, project["dependencies"]) if r.name == "ray").specifier
    assert f"\nFROM {BASE_IMAGE}\n" in (DEPLOY / "Dockerfile").read_text()
    assert one(ROOT / "cluster.yaml")["docker"]["image"] == BASE_IMAGE
    base = re.fullmatch(r"rayproject/ray-llm:([\d.]+)-py(\d)(\d+)-cu\d+", BASE_IMAGE)
    assert base is not None
    version = base[1]
    assert allowed.contains(version)
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == version
    python = Version(f"{base[2]}.{base[3]}")
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)
    for pod in pods(rayjob).values():
        for container in pod["containers"]:
            assert container["image"].endswith(f"/headgate:{project['version']}-ray{version}")


def test_no_image_floats(cronjob: dict[str, Any]) -> None:
    for path in MANIFESTS:
        for node in nodes(documents(path)):
            if isinstance(image := node.get("image"), str):
                tag = image.rsplit("/", 1)[-1].partition(":")[2]
                assert tag, f"{path.name}: {image} has no tag"
                assert tag != "latest"


def test_image_holds_what_the_installation_needs() -> None:
    """Every path the Dockerfile copies is there and let through by its .dockerignore; the user is not root."""
    text = (DEPLOY / "Dockerfile").read_text()
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [path for line in re.findall(r"^COPY --chown=\S+ (.*)$", text, re.MULTILINE) for path in line.split()[:-1]]
    assert copied
    for path in copied:
        assert (ROOT / path).exists()
        assert f"!{path}" in ignore
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in build["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {build["project"]["readme"], "pyproject.toml"} <= set(copied)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:100"]
    subprocess.run(["sh", "-n", str(DEPLOY / "install.sh")], check=True)


# --- the run


def test_job_file_of_the_config_map_is_valid() -> None:
    data = one(DEPLOY / "configmap.yaml")["data"]
    written = yaml.safe_load(data["job.yaml"])
    spec = parse_spec(written)
    assert "{date}" in written["output"]
    assert "{date}" not in spec.output
    assert spec.max_usd is not None


@pytest.mark.slow
def test_entrypoint_runs_and_reads_the_mounted_job_file(rayjob: dict[str, Any], tmp_path: Path) -> None:
    """The very command, with this Python and with a job file that is not there: exit 2 and a line that names it."""
    command = shlex.split(rayjob["spec"]["entrypoint"])
    assert command[0] == "python"
    path = Path(command[command.index("--config") + 1])
    head = pods(rayjob)["head"]
    (mount,) = head["containers"][0]["volumeMounts"]
    (volume,) = [v for v in head["volumes"] if v["name"] == mount["name"]]
    config = one(DEPLOY / "configmap.yaml")
    assert str(path.parent) == mount["mountPath"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert path.name in config["data"]
    missing = str(tmp_path / path.name)
    run = [sys.executable, *command[1:]]
    run[run.index(str(path))] = missing
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert missing in done.stderr


def test_rayjob_ends_and_never_retries(rayjob: dict[str, Any]) -> None:
    spec = rayjob["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 0
    assert 0 < spec["activeDeadlineSeconds"] < 86400
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpu = [g for g in cluster["workerGroupSpecs"] if "nvidia.com/gpu" in str(g["template"])]
    assert [(g["minReplicas"], g["replicas"]) for g in gpu] == [(0, 0)]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_alpha_schedule_repeats_the_rayjob(rayjob: dict[str, Any], cronjob: dict[str, Any]) -> None:
    alpha = one(DEPLOY / "raycronjob.yaml")
    assert alpha["spec"]["jobTemplate"] == rayjob["spec"]
    assert alpha["spec"]["schedule"] == cronjob["spec"]["schedule"]


# --- secrets


def test_keys_reach_the_ray_containers_by_env_from_and_nothing_else(rayjob: dict[str, Any]) -> None:
    assert "runtimeEnvYAML" not in rayjob["spec"]
    assert "submitterPodTemplate" not in rayjob["spec"]
    account = one(DEPLOY / "serviceaccount.yaml")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for pod in pods(rayjob).values():
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        for container in pod["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "headgate-api-keys"}}]


def test_launcher_holds_no_key(cronjob: dict[str, Any]) -> None:
    assert not [node for node in nodes(cronjob) if "secretRef" in node or "secretKeyRef" in node]


@pytest.mark.parametrize("path", [*sorted(DEPLOY.iterdir()), ROOT / "cluster.yaml"], ids=lambda path: path.name)
def test_no_secret_is_written_down(path: Path) -> None:
    text = path.read_text()
    assert not SECRETS.search(text)
    if path.suffix != ".yaml":
        return
    for node in nodes(documents(path)):
        assert node.get("kind") != "Secret"
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", str(node.get("name", ""))):
            assert "value" not in node, f"{path.name}: {node['name']} has its value written down"


@pytest.mark.parametrize(
    "text", ["OPENAI_API_KEY=sk-proj-abcdefgh12345678", "AKIAABCDEFGHIJKLMNOP", "token: 0123456789abcdef0123"]
)
def test_the_search_for_secrets_finds_some(text: str) -> None:
    assert SECRETS.search(text)


def test_every_container_is_unprivileged(rayjob: dict[str, Any], cronjob: dict[str, Any]) -> None:
    for pod in [*pods(rayjob).values(), launcher(cronjob)]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


# --- the schedule


def test_a_tick_keeps_its_day(rayjob: dict[str, Any], cronjob: dict[str, Any]) -> None:
    """`{date}` is the driver's day: the latest moment a tick may still start or run has to lie before midnight."""
    spec = cronjob["spec"]
    minute, hour, *_ = spec["schedule"].split()
    job = spec["jobTemplate"]["spec"]
    assert spec["timeZone"] == "Etc/UTC"
    assert re.search(r"^ENV TZ=UTC\b", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert job["activeDeadlineSeconds"] > rayjob["spec"]["activeDeadlineSeconds"]
    latest = int(hour) * 3600 + int(minute) * 60 + spec["startingDeadlineSeconds"] + job["activeDeadlineSeconds"]
    assert latest < 86400


def test_launcher_renders_one_rayjob_per_tick(rayjob: dict[str, Any], cronjob: dict[str, Any], tmp_path: Path) -> None:
    """The CronJob's own sed over rayjob.yaml: another name, nothing else; and every later step asks for that name."""
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"
    render, create, wait = launcher(cronjob)["initContainers"]
    (succeeded,) = launcher(cronjob)["containers"]
    (script,) = render["args"]
    template, out = DEPLOY / "rayjob.yaml", tmp_path / "rayjob.yaml"
    script = script.replace("/template/rayjob.yaml", shlex.quote(str(template)))
    script = script.replace("/rendered/rayjob.yaml", shlex.quote(str(out)))
    tick = f"{cronjob['metadata']['name']}-{29345670}"  # as Kubernetes names a CronJob's Job: minutes since 1970
    subprocess.run([*render["command"], script], env={"TICK": tick, "PATH": "/usr/bin:/bin"}, check=True)
    assert one(out) == rayjob | {"metadata": {"name": tick}}
    assert len(tick) <= KUBERAY_NAME_LIMIT
    assert "--filename=/rendered/rayjob.yaml" in create["args"]
    for container in (render, create, wait, succeeded):
        (name,) = container["env"]
        assert name["name"] == "TICK"
        assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"
    assert wait["args"][:2] == succeeded["args"][:2] == ["wait", "rayjob/$(TICK)"]


def test_launcher_may_do_what_it_does_and_no_more(cronjob: dict[str, Any]) -> None:
    _, account, role, binding = documents(DEPLOY / "cronjob.yaml")
    name = launcher(cronjob)["serviceAccountName"]
    assert name == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    verbs = ["create", "get", "list", "patch", "watch"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": verbs}]


def test_kustomization_makes_the_template_the_launcher_mounts(cronjob: dict[str, Any]) -> None:
    kustomization = one(DEPLOY / "kustomization.yaml")
    (generated,) = kustomization["configMapGenerator"]
    (volume,) = [v for v in launcher(cronjob)["volumes"] if "configMap" in v]
    assert generated == {"name": volume["configMap"]["name"], "files": ["rayjob.yaml"]}
    assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
    assert "raycronjob.yaml" not in kustomization["resources"]
    assert all((DEPLOY / name).exists() for name in kustomization["resources"])
