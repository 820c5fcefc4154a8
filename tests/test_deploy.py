"""The files in deploy/ name options, exit codes, stages and users that there are."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tests.cli.running import ROOT, environment, run_program
from tests.server.live import Serving
from vram_llm.cli import serve
from vram_llm.cli.configured_command import CONFIG_DIR_VARIABLE, options_by_key, variable_of
from vram_llm.cli.key_options import VARIABLE
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE
from vram_llm.server.config import ServerConfig

DEPLOY = ROOT / "deploy"
VARIABLES = {variable_of(key) for key in options_by_key(serve.command)} | {
    VARIABLE, CONFIG_DIR_VARIABLE, DATA_DIR_VARIABLE, CACHE_DIR_VARIABLE,
}  # fmt: skip
INSTRUCTIONS = {
    "ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT",
    "CMD",
}  # fmt: skip


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, lines joined; "" has those before the first one."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found[arguments.split(" AS ")[1]] = []
        found[list(found)[-1]].append((name, arguments.strip()))
    return found


STAGES = stages()


def of(stage: str, name: str) -> list[str]:
    return [arguments for instruction, arguments in STAGES[stage] if instruction == name]


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*")), ids=str)
def test_variables_are_options_or_folders(path: Path) -> None:
    if path.is_file():
        assert set(re.findall(r"VRAM_LLM_[A-Z_]+", path.read_text())) <= VARIABLES


def test_the_dockerfile_has_stages_files_and_users_that_there_are() -> None:
    assert list(STAGES) == ["", "build-cpu", "build-cuda", "cpu", "cuda"]
    assert {name for parts in STAGES.values() for name, _ in parts} <= INSTRUCTIONS
    for stage in list(STAGES)[1:]:
        (base,) = of(stage, "FROM")
        assert re.match(r"(ubuntu:24\.04|nvidia/cuda:\$\{CUDA_VERSION\}-(devel|runtime)-ubuntu24\.04) ", base)
        for words in map(str.split, of(stage, "COPY")):
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") == f"build-{stage}"
            else:
                assert all((ROOT / word).exists() for word in words[:-1])
                assert all(
                    f"!{word}\n" in (DEPLOY / "Dockerfile.dockerignore").read_text() for word in words[:-1]
                )
    requirement = r"llama-cpp-python==[0-9.]*"
    assert requirement in of("build-cpu", "RUN")[2]
    assert len(re.findall(requirement, (ROOT / "pyproject.toml").read_text())) == 1


def test_both_images_are_the_same_but_for_the_cards() -> None:
    """Neither runs as root; both have a health check, state in a volume, and listen to other computers."""
    for name in ("USER", "WORKDIR", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"):
        assert of("cpu", name) == of("cuda", name)
        assert len(of("cpu", name)) == 1
    assert of("cpu", "USER") == ["10001:10001"]
    (on_cpu,), (on_cuda,) = of("cpu", "ENV"), of("cuda", "ENV")
    assert set(on_cuda.split()) - set(on_cpu.split()) == {"NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
    assert "VRAM_LLM_HOST=0.0.0.0" in on_cpu.split()


@pytest.mark.process
@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_hadolint_finds_nothing() -> None:
    done = run_program("hadolint", DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.process
def test_the_health_check_asks_a_server(demo_server: Serving) -> None:
    (check,) = of("cuda", "HEALTHCHECK")
    words = json.loads(check.partition("CMD ")[2])
    port = demo_server.url.rpartition(":")[2]
    env = environment() | {"VRAM_LLM_PORT": port}
    assert run_program(*words, env=env).returncode == 0
    assert run_program(*words, env=env | {"VRAM_LLM_PORT": "9"}).returncode != 0


def test_compose_builds_the_two_images_and_lets_requests_finish() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert [service["build"]["target"] for service in services.values()] == ["cuda", "cpu"]
    for service in services.values():
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        drain = float(service["environment"]["VRAM_LLM_DRAIN_TIMEOUT"])
        assert drain < float(service["stop_grace_period"].removesuffix("s"))
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def unit() -> list[tuple[str, str]]:
    """The settings of the systemd unit."""
    lines = (DEPLOY / "vram-llm.service").read_text().splitlines()
    return [(name, value) for name, equals, value in (line.partition("=") for line in lines) if equals]


def test_the_unit_starts_again_after_faults_that_may_be_over() -> None:
    settings = dict(unit())
    codes = {
        int(code)
        for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/exit-codes.md").read_text(), re.MULTILINE)
    }
    kept_down = {int(code) for code in settings["RestartPreventExitStatus"].split()}
    assert kept_down <= codes
    assert codes - kept_down == {0, 1, 15, 18, 21, 30, 32, 34, 35, 36, 130}
    assert settings["Restart"] == "on-failure"
    assert settings["KillMode"] == "mixed"
    assert float(settings["TimeoutStopSec"]) > ServerConfig().drain_timeout_s


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    path = tmp_path / "vram-llm.service"
    path.write_text(
        (DEPLOY / "vram-llm.service").read_text().replace("/opt/vram-llm/bin/vram-llm", "/bin/true")
    )
    done = run_program("systemd-analyze", "verify", "--man=no", path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run_program("systemd-analyze", "security", "--offline=yes", "--threshold=30", path)
    assert done.returncode == 0, done.stdout


def manifest() -> dict[str, Any]:
    """The objects of the Kubernetes manifest by their kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def test_the_manifest_hangs_together() -> None:
    objects = manifest()
    pod = objects["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in pod["spec"]["volumes"]
    }
    (port,) = container["ports"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert [probe["path"] for probe in probes] == ["/health", "/health", "/"]
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert pod["spec"]["securityContext"]["runAsUser"] == int(of("cuda", "USER")[0].split(":")[0])
    assert not pod["spec"]["enableServiceLinks"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_manifests_configuration_is_one_of_serve(tmp_path: Path) -> None:
    objects = manifest()
    path = tmp_path / "config.yaml"
    path.write_text(objects["ConfigMap"]["data"]["config.yaml"])
    context = serve.command.make_context("serve", ["--config", os.fspath(path)])
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    mounts = [one["mountPath"] for one in pod["containers"][0]["volumeMounts"]]
    assert isinstance(context, click.Context)
    for name in ("model_option", "keys_file"):
        assert os.path.dirname(context.params[name]) in mounts
    assert context.params["drain_timeout_s"] + 5 < pod["terminationGracePeriodSeconds"]
