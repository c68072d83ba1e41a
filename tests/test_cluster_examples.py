"""The examples of clusters in docs/examples, as far as they can be tried without Slurm and Kubernetes.

dask-jobqueue and dask-kubernetes are no dependencies: what needs them is skipped where they are not installed.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return content


def containers(part: str) -> dict[str, Any]:
    (container,) = read("kubernetes.yaml")["spec"][part]["spec"]["containers"]
    return dict(container)


def test_the_pods_start_what_dask_has() -> None:
    for part, command in (("worker", dask_worker), ("scheduler", dask_scheduler)):
        dask, name = containers(part)["command"]
        options = containers(part).get("args", [])
        assert (dask, name) == ("dask", part)
        command.make_context(name, options)  # an option that it does not have ends here
    worker = containers("worker")
    assert {env["name"]: env["value"] for env in worker["env"]}["OMP_NUM_THREADS"] == worker["resources"]["limits"][
        "cpu"
    ]
    mounts = {mount["name"] for mount in worker["volumeMounts"]}
    assert mounts == {volume["name"] for volume in read("kubernetes.yaml")["spec"]["worker"]["spec"]["volumes"]}


def test_the_cluster_is_what_the_operator_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    found = importlib.util.find_spec("dask_kubernetes")
    if found is None or found.origin is None:
        pytest.skip("dask-kubernetes is not installed")
    definition = Path(found.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds/daskcluster.yaml"
    resource = yaml.safe_load(definition.read_text(encoding="utf-8"))
    cluster = read("kubernetes.yaml")
    assert cluster["apiVersion"] == f"{resource['spec']['group']}/{resource['spec']['versions'][0]['name']}"
    assert cluster["kind"] == resource["spec"]["names"]["kind"]
    jsonschema.validate(cluster, resource["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def test_the_slurm_job_asks_for_what_the_file_says(tmp_path: Path) -> None:
    """In a process of its own: Dask reads its configuration when it is imported."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    (tmp_path / "jobqueue.yaml").write_text((EXAMPLES / "slurm.yaml").read_text())
    program = "from dask_jobqueue import SLURMCluster; print(SLURMCluster(n_workers=0).job_script())"
    env = {"DASK_CONFIG": str(tmp_path), "PATH": "/usr/bin", "PYTHONPATH": str(Path(jobqueue.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    script = done.stdout
    for line in ("-J gdist", "-p gpu", "--cpus-per-task=8", "--gres=gpu:1", "--signal=TERM@120", "-t 12:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert "export OMP_NUM_THREADS=8\nsource" in script and script.count("--nthreads 3") == 1
    (start,) = [line for line in script.splitlines() if "distributed.cli.dask_worker tcp://" in line]
    dask_worker.make_context("worker", start.partition("dask_worker ")[2].split())
    compile((EXAMPLES / "slurm_cluster.py").read_text(), "slurm_cluster.py", "exec")


def test_slurm_has_every_field_that_the_file_sets() -> None:
    own = read("slurm.yaml")["jobqueue"]["slurm"]
    assert own["job-cpu"] == int(own["job-script-prologue"][0].rpartition("=")[2]) and own["processes"] == 1
    found = importlib.util.find_spec("dask_jobqueue")
    if found is None or found.origin is None:
        pytest.skip("dask-jobqueue is not installed")
    known = yaml.safe_load((Path(found.origin).parent / "jobqueue.yaml").read_text(encoding="utf-8"))
    assert own.keys() <= known["jobqueue"]["slurm"].keys()
