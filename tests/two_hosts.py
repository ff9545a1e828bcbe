"""Three machines on one: network namespaces hosta, hostb and hostl (the launcher's).

Used by test_two_hosts.py. Needs root, iproute2, an ssh server and rsync; nothing leaves the namespaces, and
`down` takes everything away again. By hand: `python tests/two_hosts.py up FOLDER`, `... down FOLDER`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SUBNET = "10.213.77"
HOSTS = ("hosta", "hostb", "hostl")


class Unavailable(RuntimeError):
    """Such hosts cannot be made here."""


class TwoHosts:
    """The namespaces are called TAGhosta and so on; `folder` holds keys, configurations and disks."""

    def __init__(self, folder: Path, tag: str = "ic") -> None:
        self.folder = folder
        self.tag = tag
        self.config = folder / "ssh_config"
        #: a folder that is another one on each host
        self.disk = folder / "disk"

    def up(self) -> None:
        """Make all; Unavailable where that is not possible."""
        for program in ("ip", "ssh", "sshd", "ssh-keygen", "rsync", "unshare"):
            if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
                raise Unavailable(f"{program} is not installed")
        if os.geteuid() != 0:
            raise Unavailable("only root can make network namespaces")
        self.down()
        try:
            _run("ip", "netns", "add", self.tag + "s")
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"ip netns add: {error.stderr.strip()}") from None
        self.disk.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        _run("ip", "-n", self.tag + "s", "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self.tag + "s", "link", "set", "br0", "up")
        for number, host in enumerate(HOSTS, 1):
            self._link(number, host)
        self._keys()
        Path("/run/sshd").mkdir(exist_ok=True)
        for number, host in enumerate(HOSTS[:2], 1):
            self._sshd(number, host)

    def down(self) -> None:
        """Take away what `up` made, as far as it is there."""
        existing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True,
                                  check=False).stdout.split()
        for space in (*(self.tag + host for host in HOSTS), self.tag + "s"):
            if space in existing:
                for pid in _run("ip", "netns", "pids", space).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                _run("ip", "netns", "del", space)
            shutil.rmtree(f"/etc/netns/{space}", ignore_errors=True)

    def words(self, host: str) -> list[str]:
        """What runs a command on a host without ssh."""
        return ["ip", "netns", "exec", self.tag + host]

    def processes(self, host: str) -> dict[int, str]:
        """Command lines by process id on a host, without sshd's own and those that have just ended."""
        commands = {}
        for pid in map(int, _run("ip", "netns", "pids", self.tag + host).split()):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if line and not line.startswith("sshd") and "sshd -" not in line:
                    commands[pid] = line
        return commands

    def link(self, host: str, state: str) -> None:
        """Pull a host's cable out ("down") or put it in ("up")."""
        _run("ip", "-n", self.tag + "s", "link", "set", f"p{self.tag}{host[-1]}", state)

    def _link(self, number: int, host: str) -> None:
        space, inner, outer = self.tag + host, f"v{self.tag}{host[-1]}", f"p{self.tag}{host[-1]}"
        _run("ip", "netns", "add", space)
        _run("ip", "-n", self.tag + "s", "link", "add", outer, "type", "veth", "peer", "name", inner,
             "netns", space)
        _run("ip", "-n", self.tag + "s", "link", "set", outer, "master", "br0", "up")
        _run("ip", "-n", space, "addr", "add", f"{SUBNET}.{number}/24", "dev", inner)
        for device in (inner, "lo"):
            _run("ip", "-n", space, "link", "set", device, "up")
        names = Path(f"/etc/netns/{space}")
        names.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{SUBNET}.{i} {name}" for i, name in enumerate(HOSTS, 1))]
        (names / "hosts").write_text("\n".join(lines) + "\n")

    def _keys(self) -> None:
        lines = []
        for name in (*HOSTS[:2], "user"):
            key = self.folder / f"key_{name}"
            key.unlink(missing_ok=True)
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
            if name != "user":
                lines.append(f"{name} {key.with_suffix('.pub').read_text()}")
        (self.folder / "known_hosts").write_text("".join(lines))
        (self.folder / "authorized").write_text((self.folder / "key_user.pub").read_text())
        self.config.write_text(
            f"IdentityFile {self.folder}/key_user\nIdentitiesOnly yes\nStrictHostKeyChecking yes\nUser root\n"
            f"UserKnownHostsFile {self.folder}/known_hosts\nGlobalKnownHostsFile /dev/null\nLogLevel ERROR\n")

    def _sshd(self, number: int, host: str) -> None:
        config = self.folder / f"sshd_{host}"
        config.write_text(
            f"ListenAddress {SUBNET}.{number}\nHostKey {self.folder}/key_{host}\n"
            f"PidFile {self.folder}/{host}.pid\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nUsePAM no\nStrictModes no\n"
            "PermitRootLogin prohibit-password\nMaxStartups 100\n")
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
        script = (f"hostname {host}; mount -t tmpfs none {shlex.quote(str(self.disk))}; "
                  f"exec {sshd} -f {shlex.quote(str(config))} -E {shlex.quote(str(self.folder / host))}.log")
        _run(*self.words(host), "unshare", "-u", "-m", "sh", "-c", script)
        deadline = time.monotonic() + 5
        while not (self.folder / f"{host}.pid").exists():
            if time.monotonic() > deadline:
                log = (self.folder / f"{host}.log").read_text()
                raise Unavailable(f"sshd on {host} did not start: {log}")
            time.sleep(0.05)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    hosts = TwoHosts(Path(sys.argv[2]).resolve())
    try:
        hosts.up() if sys.argv[1] == "up" else hosts.down()
    except Unavailable as error:
        print(f"skipped: {error}", file=sys.stderr)
        sys.exit(77)
