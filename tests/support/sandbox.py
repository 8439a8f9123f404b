"""Runs a command in the sandbox that a systemd unit describes, as far as that can be had without systemd.

    python -m tests.support.sandbox UNIT --writable FOLDER -- COMMAND…

The file system is read-only but for the folder, all capabilities are gone, and the kernel refuses the system calls and
address families that the unit does not allow. Needs root and x86-64.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

# What is done here, and what only systemd can do (other users' processes, devices, a user and folders of its own).
EXERCISED = {
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "LimitNOFILE",
    "NoNewPrivileges",
    "ProtectSystem",
    "RestrictAddressFamilies",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "UMask",
}
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 22, 38, 65
_CLONE_NEWNS, _MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_X86_64 = 0xC000003E

_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why this cannot be had here; None: it can."""
    if os.geteuid() != 0:
        return "only root can mount"
    if platform.machine() != "x86_64" or not HEADER.exists():
        return "the numbers of system calls are known for x86-64 with the C library's headers only"
    if not all(map(shutil.which, ("systemd-analyze", "setpriv"))):
        return "systemd-analyze or setpriv is missing"
    return None


def options(unit: Path) -> list[tuple[str, str]]:
    """The options of a unit in order; some come several times."""
    return re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE)


def allowed_calls(unit: Path) -> set[str]:
    """The names of the system calls that SystemCallFilter leaves."""
    calls: set[str] = set()
    for name, value in options(unit):
        if name == "SystemCallFilter":
            named = set().union(*(_expanded(word) for word in value.removeprefix("~").split()))
            calls = calls - named if value.startswith("~") else calls | named
    return calls


def _expanded(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", word]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = [line.strip() for line in text.splitlines()[1:]]
    return set().union(*(_expanded(each) for each in words if each and not each.startswith("#")))


def families(unit: Path) -> list[int]:
    """The address families that sockets may have."""
    (value,) = [value for name, value in options(unit) if name == "RestrictAddressFamilies"]
    return [int(getattr(socket, word)) for word in value.split()]


def seccomp_program(unit: Path) -> bytes:
    """The filter in BPF (seccomp(2)): what is not allowed fails with EPERM."""
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()))
    refused = (_RETURN, 0, 0, _ERRNO | 1)
    allowed = (_RETURN, 0, 0, _ALLOW)
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _X86_64), refused, (_LOAD, 0, 0, _NUMBER)]
    for name in sorted(allowed_calls(unit) & set(numbers) - {"socket"}):
        code += [(_EQUAL, 0, 1, int(numbers[name])), allowed]
    code += [(_EQUAL, 1, 0, int(numbers["socket"])), refused, (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    for family in families(unit):
        code += [(_EQUAL, 0, 1, family), allowed]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in [*code, refused])


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def make_read_only(writable: Path) -> None:
    """Give this process a view of the file system in which only that folder may be written to."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")
    folder = str(writable).encode()
    _check(_libc.mount(folder, folder, None, _MS_BIND, None), "bind")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if point == str(writable) or point.startswith(("/proc", "/dev", "/sys")):
            continue
        flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY
        if _libc.mount(None, point.encode(), None, flags, None) != 0 and point == "/":
            raise OSError(ctypes.get_errno(), "the root cannot be made read-only")


def confine(unit: Path) -> None:
    """Take away what the unit takes away; what is run afterwards keeps it."""
    found = dict(options(unit))
    os.umask(int(found["UMask"], 8))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if found.get("MemoryDenyWriteExecute") == "yes":
        _check(_libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0), "memory-deny-write-execute")
    program = seccomp_program(unit)
    kept = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.addressof(kept))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(described), 0, 0), "seccomp")


def main() -> None:
    """Confine this process in two steps, and become the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("unit", type=Path)
    parser.add_argument("--writable", type=Path)
    middle = sys.argv.index("--")
    arguments, command = parser.parse_args(sys.argv[1:middle]), sys.argv[middle + 1 :]
    if arguments.writable is not None:
        make_read_only(arguments.writable)
        inner = [sys.executable, "-m", "tests.support.sandbox", str(arguments.unit), "--", *command]
        os.execvp("setpriv", ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *inner])
    confine(arguments.unit)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
