#!/usr/bin/env python3
"""Two servers in two network namespaces, joined by one cable, know of each other by mDNS alone: one fetches what the other
has. Needs root, for `ip netns`; without it nothing is checked, and that is said. No other network is touched.

    TIDEGATE_BIN=... python3 tests/live/mdns.py
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tidegate import BIN, QUIET  # noqa: E402

# mDNS is what is tried here: whoever calls may have switched it off for everything else.
ENV = {key: value for key, value in {**os.environ, **QUIET, "TIDEGATE_NO_DHT": "true"}.items() if key != "TIDEGATE_NO_MDNS"}
SIZE = 3_000_000
# mDNS asks when an interface appears; both know of each other well within this.
DISCOVERY_LIMIT_S = 60


class Namespace:
    """A network of its own, with a loopback."""

    def __init__(self, name):
        self.name = f"tidegate-{os.getpid()}-{name}"
        ip("netns", "add", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    def command(self, *args):
        return ["ip", "netns", "exec", self.name, *map(str, args)]

    def cli(self, data_dir, *args):
        done = subprocess.run(self.command(BIN, *args, "--data-dir", data_dir), env=ENV, capture_output=True)
        return done.returncode, done.stdout, done.stderr.decode()

    def serve(self, data_dir, address, log, *args):
        process = subprocess.Popen(
            self.command(BIN, "serve", "--data-dir", data_dir, "--gateway", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                         "--listen", f"/ip4/{address}/tcp/0", *args),
            env=ENV, stdout=subprocess.PIPE, stderr=log, text=True)
        line = process.stdout.readline()
        if not line.startswith("ready "):
            process.kill()
            raise RuntimeError(f"no ready line but {line!r}; log: {Path(log.name).read_text()[-2000:]}")
        return process

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True)


def namespaces():
    made = []
    try:
        made.append(Namespace("a"))
        made.append(Namespace("b"))
        a, b = made
        ip("link", "add", "cable", "netns", a.name, "type", "veth", "peer", "name", "cable", "netns", b.name)
        for number, space in enumerate(made, 1):
            ip("-n", space.name, "addr", "add", f"10.79.0.{number}/24", "dev", "cable")
            ip("-n", space.name, "link", "set", "cable", "up")
        return made
    except (OSError, subprocess.CalledProcessError):
        for space in made:
            space.remove()
        return None


def check(a, b, folder):
    data = random.Random(79).randbytes(SIZE)
    file = folder / "file"
    file.write_bytes(data)
    servers = []
    with open(folder / "log", "w+") as log:
        try:
            servers.append(a.serve(folder / "a", "10.79.0.1", log))
            servers.append(b.serve(folder / "b", "10.79.0.2", log))
            code, out, error = a.cli(folder / "a", "--json", "add", file)
            assert code == 0, error
            cid = json.loads(out.splitlines()[-1])["cid"]
            started = time.monotonic()
            while True:
                code, out, error = b.cli(folder / "b", "cat", cid)
                if code == 0:
                    break
                # Not found means that mDNS has not named the other one yet.
                assert time.monotonic() - started < DISCOVERY_LIMIT_S, f"exit {code}: {error}\n{Path(log.name).read_text()[-2000:]}"
                time.sleep(0.5)
            assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest(), "other bytes came"
            return time.monotonic() - started
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(timeout=40)


def main():
    spaces = namespaces()
    if spaces is None:
        print("mDNS: not checked, network namespaces cannot be made here (root is needed)")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-mdns-") as folder:
            seconds = check(*spaces, Path(folder))
            print(f"mDNS: {SIZE:,} bytes from a peer that only mDNS named, {seconds:.1f} s after the first try")
    finally:
        for space in spaces:
            space.remove()


if __name__ == "__main__":
    main()
