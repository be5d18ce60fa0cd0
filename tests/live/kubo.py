"""A real Kubo, closed to the outside: no bootstrap, AutoConf, AutoTLS, telemetry, mDNS; loopback only."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

BIN = os.environ.get("TIDEGATE_KUBO") or os.path.expanduser("~/.cache/tidegate/bin/ipfs-v0.43.0")

CONFIG = {
    "Bootstrap": [],
    "Routing.Type": "none",
    "AutoConf.Enabled": False,
    "AutoTLS.Enabled": False,
    "Discovery.MDNS.Enabled": False,
    "Provide.Enabled": False,
    "HTTPRetrieval.Enabled": False,
    "Swarm.DisableNatPortMap": True,
    "Swarm.RelayClient.Enabled": False,
    "Addresses.API": "/ip4/127.0.0.1/tcp/0",
    "Addresses.Gateway": "/ip4/127.0.0.1/tcp/0",
    "DNS.Resolvers": {},
}


class Kubo:
    def __init__(self, root, transports=("tcp", "quic")):
        self.repo = Path(root)
        self.env = {**os.environ, "IPFS_PATH": str(self.repo), "IPFS_TELEMETRY": "off", "GOLOG_LOG_LEVEL": "error"}
        self("init", "--empty-repo")
        path = self.repo / "config"
        config = json.loads(path.read_text())
        for key, value in CONFIG.items():
            node, *names = config, *key.split(".")
            for name in names[:-1]:
                node = node.setdefault(name, {})
            node[names[-1]] = value
        config["Addresses"]["Swarm"] = [
            {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}[transport] for transport in transports]
        path.write_text(json.dumps(config))
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([BIN, "daemon"], env=self.env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        for line in self.process.stdout:
            if match := re.match(r"Gateway server listening on /ip4/127.0.0.1/tcp/(\d+)", line):
                self.gateway = f"127.0.0.1:{match.group(1)}"
            if line.startswith("Daemon is ready"):
                break
        else:
            raise RuntimeError("Kubo did not start")
        self.addresses = [a for a in json.loads(self("id"))["Addresses"] if "/127.0.0.1/" in a]

    def __call__(self, *args, data=None):
        done = subprocess.run([BIN, *args], env=self.env, input=data, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"ipfs {' '.join(args)}: {done.stderr.decode()}")
        return done.stdout.decode(errors="replace")

    def add(self, path, *args):
        return self("add", "-Q", "--cid-version=1", *args, str(path)).strip()

    def connect(self, address):
        self("swarm", "connect", address)

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
