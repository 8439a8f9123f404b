"""The page that leads from nothing to a call: its own commands, as they stand there, beside a fresh Synapse."""

from __future__ import annotations

import asyncio
import fcntl
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mautrix_sfu.core.ids import Device, DeviceId, UserId
from scripts.install_synapse import ensure_synapse
from tests.support.focus import CALL, ROOT
from tests.support.machine import Machine, why_not
from tests.support.participant import Participant
from tests.support.synapse import Client, Synapse

pytestmark = [pytest.mark.synapse, pytest.mark.alone, pytest.mark.timeout(600)]  # the page's ports are what they are

PAGE = ROOT / "docs" / "operations.md"
SECTION = "From nothing to a call in ten minutes"
SHIM = ROOT / "tests" / "support" / "systemctl.py"


def blocks(section: str) -> list[str]:
    """The shell blocks of one section of the page, in order."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def placeholders(section: str) -> list[str]:
    """What the section's table says to put one's own in place of."""
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def filled_in(script: str, own: dict[str, str]) -> str:
    for placeholder in sorted(own, key=len, reverse=True):
        script = script.replace(placeholder, own[placeholder])
    return script


@pytest.fixture
def machine() -> Iterator[Machine]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="machine-"))
    directory.chmod(0o755)
    made = Machine(directory)
    with Path(tempfile.gettempdir(), "mautrix-sfu-ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the page's ports are what they are: one test at a time
        yield made
    made.close()


async def test_the_page_leads_to_a_call(machine: Machine, wheel: Path, tmp_path: Path) -> None:
    synapse = Synapse(directory=machine.directory / "synapse")
    prepare(machine, synapse)
    own = {
        "example.org": synapse.server_name,
        "http://127.0.0.1:8008": synapse.base_url,
        "@alice:example.org": synapse.user("alice"),
        "dist/mautrix_sfu-*.whl": str(wheel),
        "/etc/matrix-synapse/conf.d": "/etc/matrix-synapse/conf.d",
    }
    assert set(own) == set(placeholders(SECTION))
    script = machine.directory / "page.sh"
    steps = [f"echo '== step {number}'\n{block}" for number, block in enumerate(blocks(SECTION), 1)]
    assert len(steps) == 5
    # The services end with the machine, so it stays up until the call was held.
    script.write_text("set -eu\n" + filled_in("\n".join(steps), own) + "\necho '== done'\nexec sleep 600\n")
    output = tmp_path / "page.log"
    process = machine.spawn(["bash", "-x", str(script)], output, cwd=ROOT)
    try:
        await finished(process, output)
        await hold_a_call(synapse)
    finally:
        process.kill()
        process.wait()
        await synapse.close_http()
    text = output.read_text()
    assert re.search(r"^Nothing to mend", text, re.MULTILINE), text
    log = machine.path("/var/log/mautrix-sfu.log").read_text()
    assert "Traceback" not in log


def prepare(machine: Machine, synapse: Synapse) -> None:
    """What a machine with a Synapse has, laid out as Debian's package does; for systemd there is a stand-in."""
    synapse._write_configuration()
    python = ensure_synapse()
    machine.run(["groupadd", "--system", "matrix-synapse"])
    machine.run(["mkdir", "-p", "/etc/matrix-synapse/conf.d", "/etc/systemd/system", "/usr/local/sbin"])
    machine.run(["cp", str(synapse.directory / "homeserver.yaml"), "/etc/matrix-synapse/homeserver.yaml"])
    start = (
        f"cd {synapse.directory} && exec {python} -m synapse.app.homeserver "
        "-c /etc/matrix-synapse/homeserver.yaml -c /etc/matrix-synapse/conf.d"
    )
    shim = machine.directory / "systemctl"
    shutil.copy(SHIM, shim)
    (machine.directory / "matrix-synapse.service").write_text(f"[Service]\nExecStart=/bin/bash -c '{start}'\n")
    machine.run(["install", "-m", "755", str(shim), "/usr/local/sbin/systemctl"])
    machine.run(["cp", str(machine.directory / "matrix-synapse.service"), "/etc/systemd/system/"])


async def finished(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until all steps are done; AssertionError with what they printed if one fails."""
    deadline = time.monotonic() + 240
    while "\n== done\n" not in (text := await asyncio.to_thread(output.read_text, errors="replace")):
        assert process.poll() is None, text[-6000:]
        assert time.monotonic() < deadline, text[-6000:]
        await asyncio.sleep(0.1)


async def hold_a_call(synapse: Synapse) -> None:
    """Two new users in a room with the homeserver's defaults: each sees and hears the other."""
    alice, bob = await synapse.register_user("alice"), await synapse.register_user("bob")
    room = await alice.create_room(invite=[bob.user_id], calls=False)
    await bob.join(room)
    await alice.send_state(room, CALL, "first", {"m.intent": "m.room", "m.type": "m.video"})
    focus = Device(UserId(synapse.user("sfu")), DeviceId("SFU1"))

    def participant(client: Client) -> Participant:
        return Participant(synapse.base_url, client.user_id, client.device_id, focus, token=client.token)

    async with participant(alice) as one, participant(bob) as other:
        for each in (one, other):
            await each.join(room, "first")
        for each, peer in ((one, other), (other, one)):
            await each.subscribe_to(peer)
        for each, peer in ((one, other), (other, one)):
            await each.until(lambda each=each, peer=peer: each.video_of(peer).key_frames, what="video")  # type: ignore[misc]
            await each.until(lambda each=each, peer=peer: each.audio_of(peer).packets > 10, what="audio")  # type: ignore[misc]
