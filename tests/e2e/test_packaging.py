"""What is shipped: every step of the Dockerfile and the image's user, a source distribution that builds, compose."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mautrix_sfu import __version__
from mautrix_sfu.config import example_text
from mautrix_sfu.config.options import load_yaml
from scripts.image_steps import Build, Context, Stage, instructions
from tests.support.calls import Call
from tests.support.focus import ROOT, Deployment
from tests.support.machine import why_not
from tests.support.packaging import build_wheel, maturin

CONFIG = "/data/config.yaml"


# ---------------------------------------------------------------- compose


def test_what_compose_mounts_and_builds_is_there() -> None:
    services = compose()["services"]
    assert {"mautrix-sfu", "synapse", "postgres", "prometheus", "grafana"} == set(services)
    for service in services.values():
        assert "image" in service or (ROOT / service["build"] / "Dockerfile").is_file()
        for mount in service.get("volumes", []):
            source, target = mount.split(":")[:2]
            assert target.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).exists() or source.startswith("./data/"), source
            else:
                assert source in compose()["volumes"]
        for other in service.get("depends_on", {}):
            assert other in services


def composed(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What Compose itself makes of a file: it checks it against its schema, and needs no engine for that."""
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is missing: scripts/prerequisites.sh test says what installs it")
    command = [tool, "--project-directory", str(ROOT), "--file", "-", "config"]
    env = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, input=text, env=env, capture_output=True, text=True, check=False)


def test_compose_takes_the_file_and_wants_its_passwords() -> None:
    text = (ROOT / "compose.yaml").read_text()
    passwords = {"POSTGRES_PASSWORD": "first", "GRAFANA_PASSWORD": "second"}
    done = composed(text, **passwords)
    assert done.returncode == 0, done.stderr
    services = YAML(typ="safe", pure=True).load(done.stdout)["services"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "first"
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "second"
    for name in passwords:
        without = composed(text, **{other: value for other, value in passwords.items() if other != name})
        assert without.returncode != 0
        assert "set it in .env" in without.stderr
    assert composed(text.replace("read_only: true", "readonly: true"), **passwords).returncode != 0, "it is looked at"


def test_compose_fits_the_configurations_that_it_mounts_and_the_ports_of_the_focus() -> None:
    yaml, services = YAML(typ="safe", pure=True), compose()["services"]
    ours = load_yaml(example_text())
    published = [port.partition("/")[0].split(":")[-1] for port in services["mautrix-sfu"]["ports"]]
    assert published == [str(ours["media"]["port"]), str(ours["http"]["port"])]
    mounts = {
        name: dict(reversed(mount.split(":")[:2]) for mount in service.get("volumes", []))
        for name, service in services.items()
    }
    prometheus, grafana = mounts["prometheus"], mounts["grafana"]
    (config,) = [word.partition("=")[2] for word in services["prometheus"]["command"] if "config.file" in word]
    scraped = yaml.load(ROOT / prometheus[config])
    for rules in scraped["rule_files"]:
        assert str(Path(config).parent / rules) in prometheus
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == [f"mautrix-sfu:{ours['metrics']['port']}"]
    provisioned = "/etc/grafana/provisioning"
    (source,) = yaml.load(ROOT / grafana[f"{provisioned}/datasources/prometheus.yaml"])["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.load(ROOT / grafana[f"{provisioned}/dashboards/mautrix-sfu.yaml"])["providers"]
    assert [target for target in grafana if target.startswith(provider["options"]["path"] + "/")]
    waited = {
        other
        for service in services.values()
        if isinstance(needed := service.get("depends_on", {}), dict)
        for other, how in needed.items()
        if how["condition"] == "service_healthy"
    }
    assert {name for name in waited if "healthcheck" not in services[name]} == {"synapse"}, "whose image has one"


def test_compose_waits_for_a_drain_and_gives_the_focus_no_rights() -> None:
    focus = compose()["services"]["mautrix-sfu"]
    assert int(focus["stop_grace_period"].removesuffix("s")) >= 75  # drain.deadline, and the end
    assert focus["cap_drop"] == ["ALL"]
    assert focus["read_only"] is True
    assert "privileged" not in focus


def compose() -> Any:
    return YAML(typ="safe", pure=True).load(ROOT / "compose.yaml")


# ---------------------------------------------------------------- the context of the image


def test_the_engine_is_sent_what_the_steps_copy_and_no_more() -> None:
    context = Context(ROOT)
    for name, rest in instructions((ROOT / "Dockerfile").read_text()):
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert list(context.files(source)), source
    for never in (".git", ".venv", ".cache", "tests", "web/node_modules", "media/target", "mautrix_sfu/http/page"):
        assert not context.takes(ROOT / never), never
    assert not context.takes(ROOT / "mautrix_sfu/_media.abi3.so")
    assert not context.takes(ROOT / "mautrix_sfu/core/__pycache__/x.pyc")


# ---------------------------------------------------------------- with a build: make test-packaging

packaging = [pytest.mark.synapse, pytest.mark.packaging, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="image-"))
    directory.chmod(0o755)
    build = Build(ROOT, directory, {"CARGO_TARGET_DIR": str(ROOT / "media/target")})  # compiled dependencies are taken
    try:
        yield build.run()
    finally:
        build.close()


@pytest.fixture
async def deployment(image: Stage, tmp_path: Path) -> AsyncIterator[Deployment]:
    """A Synapse, and the image's own command beside it, as its own user with its configuration in /data."""
    made = Deployment(tmp_path, {"database": {"url": "sqlite:focus.db"}})
    made.focus.configure()
    await made.synapse.start()
    image.machine.run(["install", "-o", "sfu", "-g", "sfu", "-m", "600", str(made.focus.config), CONFIG])
    command = image.command(*image.settings["ENTRYPOINT"], *image.settings["CMD"])
    health = " ".join(image.command(*image.settings["HEALTHCHECK"]))
    script = f"""{" ".join(command)} & focus=$!
        until {health}; do sleep 0.2; done 2>/dev/null
        echo healthy; grep -E '^(Uid|CapEff|CapBnd):' /proc/$focus/status; wait $focus; echo ended $?"""
    process = image.machine.spawn(["bash", "-c", script], made.focus.log, cwd=image.cwd)
    made.focus._process = process
    try:
        async with asyncio.timeout(60):
            while "healthy" not in made.focus.log_tail() or await made.focus._not_ready() is not None:
                assert process.poll() is None, made.focus.log_tail()
                await asyncio.sleep(0.1)
        yield made
    finally:
        made.focus.kill()
        await made.stop()


class TestImage:
    pytestmark = packaging

    async def test_every_step_builds_an_image_that_carries_calls(self, deployment: Deployment, image: Stage) -> None:
        async with Call(deployment) as call:
            alice, bob = await call.joined("alice", "bob")
            await bob.until(lambda: bob.video_of(alice).packets > 30)
        log = deployment.focus.log_tail()
        assert "Uid:\t1337\t1337\t1337\t1337" in log
        assert "CapEff:\t0000000000000000" in log
        assert (image.machine.path("/data/focus.db")).stat().st_uid == 1337  # made and migrated at its start
        assert image.settings["VOLUME"] == ["/data"]
        page = await deployment.focus.get("")
        assert "<script" in page


class TestSource:
    pytestmark = packaging

    def test_a_source_distribution_builds_and_what_it_builds_runs(self, tmp_path: Path) -> None:
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CARGO_TARGET_DIR")}
        subprocess.run([maturin(), "sdist", "--out", str(tmp_path)], cwd=ROOT, env=env, check=True, capture_output=True)
        (archive,) = tmp_path.glob("*.tar.gz")
        assert archive.name == f"mautrix_sfu-{__version__}.tar.gz"
        with tarfile.open(archive) as tar:
            names = [name.partition("/")[2] for name in tar.getnames()]
            tar.extractall(tmp_path / "source", filter="data")
        for needed in ("media/src/lib.rs", "media/Cargo.lock", "mautrix_sfu/http/page/index.html", "LICENSE"):
            assert needed in names
        assert not [name for name in names if name.endswith((".so", ".pyc")) or "node_modules" in name]
        wheel = build_wheel(tmp_path / "source" / archive.name.removesuffix(".tar.gz"), tmp_path / "dist")
        assert f"mautrix_sfu-{__version__}-cp311-abi3-manylinux_" in wheel.name
        environment = tmp_path / "venv"
        venv.create(environment, with_pip=True)
        pip = [str(environment / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], env=env, check=True)
        program = environment / "bin/mautrix-sfu"

        def run(*arguments: str) -> str:
            command = [str(program), *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert run("--version") == f"mautrix-sfu {__version__}\n"
        run("-e", "-c", "config.yaml")
        config = tmp_path / "config.yaml"
        config.write_text(config.read_text().replace("example.com", "example.org"))
        run("-g", "-c", "config.yaml", "-r", "registration.yaml")
        assert (tmp_path / "registration.yaml").exists()
        run("--migrate", "-c", "config.yaml")
        python = environment / "bin/python"
        subprocess.run([python, "-c", "import mautrix_sfu.app"], cwd=tmp_path, env=env, check=True)
