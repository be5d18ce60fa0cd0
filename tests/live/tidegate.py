"""Starts and stops real servers for the reliability checks. Standard library only; loopback only."""

import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

BIN = os.environ.get("TIDEGATE_BIN") or os.path.expanduser("~/.cache/tidegate/target/release/tidegate")
QUIET = {"TIDEGATE_BOOTSTRAP": "none", "TIDEGATE_NO_MDNS": "true", "TIDEGATE_DNS": "none", "RUST_LOG": "warn"}
START_LIMIT_S = 20


class Server:
    """One `tidegate serve` on free loopback ports."""

    def __init__(self, data_dir, *args, env=None):
        self.data_dir = Path(data_dir)
        self.log = tempfile.NamedTemporaryFile(prefix="tidegate-", suffix=".log", delete=False)
        started = time.monotonic()
        self.process = subprocess.Popen(
            [BIN, "serve", "--data-dir", str(data_dir), "--gateway", "127.0.0.1:0", "--admin", "127.0.0.1:0",
             "--listen", "/ip4/127.0.0.1/tcp/0", *args],
            env={**os.environ, **QUIET, **(env or {})}, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        self.start_seconds = time.monotonic() - started
        if not line.startswith("ready "):
            raise RuntimeError(f"no ready line but {line!r}; log: {Path(self.log.name).read_text()[-2000:]}")
        self.gateway = re.search(r"gateway=http://(\S+)", line).group(1)
        self.admin = re.search(r"admin=http://(\S+)", line).group(1)
        peer = re.search(r"peer=(\S+)", line)
        self.peer = peer and peer.group(1)

    @property
    def pid(self):
        return self.process.pid

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)

    def stop(self):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError("did not stop on SIGTERM")
        Path(self.log.name).unlink(missing_ok=True)
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if kind is None:
            Path(self.log.name).unlink(missing_ok=True)
        else:
            print("--- log of the server that failed:\n" + Path(self.log.name).read_text()[-4000:])

    def get(self, path, headers=None, timeout=60):
        return request(self.gateway, "GET", path, headers=headers, timeout=timeout)

    def api(self, method, path, body=None, headers=None, timeout=120):
        status, _, data = request(self.admin, method, "/api/v1/" + path, body, headers, timeout)
        try:
            return status, json.loads(data) if data else None
        except ValueError:
            return status, data

    def metric(self, name):
        """The sum over all label sets of a metric, or None when it is not there."""
        _, _, text = request(self.admin, "GET", "/metrics")
        total, seen = 0.0, False
        for line in text.decode().splitlines():
            match = re.match(r"(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", line)
            if match and match.group(1) == name:
                total, seen = total + float(match.group(2)), True
        return total if seen else None

    def memory(self, field="VmRSS"):
        """Resident bytes now (VmRSS) or at most so far (VmHWM)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        return 0

    def pins(self):
        found, cursor = set(), None
        while True:
            status, page = self.api("GET", "pins" + (f"?cursor={urllib.parse.quote(cursor)}" if cursor else ""))
            assert status == 200, (status, page)
            found |= {pin["cid"] for pin in page["items"]}
            cursor = page.get("next_cursor")
            if not cursor:
                return found


def request(host, method, path, body=None, headers=None, timeout=60):
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def add(server, data):
    """Adds bytes through the API; the CID, or None when the server went away or refused."""
    status, answer = server.api("POST", "add", body=data, headers={"Content-Type": "application/octet-stream"})
    if status not in (200, 201):
        raise RuntimeError(f"add answered {status}: {answer}")
    return answer["cid"]
