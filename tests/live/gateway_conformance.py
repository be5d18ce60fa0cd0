#!/usr/bin/env python3
"""The real gateway-conformance, by hand: its own fixtures imported, all presets, every failure and skip named. Needs Go.

    git clone https://github.com/ipfs/gateway-conformance CHECKOUT
    TIDEGATE_BIN=... python3 tests/live/gateway_conformance.py CHECKOUT [-test.run=... and other flags of `go test`]

CI runs the same cases by a runner of ours (tests/conformance): no package registry serves the suite's module.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tidegate import BIN, QUIET, Server  # noqa: E402

# Records that the suite broke on purpose: no implementation may take them.
BROKEN = ("_v1_", "_v1-v2-broken-v1-value_", "_v1-v2-broken-signature-v2_")


def go(suite, *args):
    subprocess.run(["go", *map(str, args)], cwd=suite, check=True)


def fill(root, fixtures):
    env = {**os.environ, **QUIET, "TIDEGATE_DATA_DIR": str(root / "data")}
    subprocess.run([BIN, "car", "import", str(fixtures / "fixtures.car")], env=env, check=True, capture_output=True)
    for record in sorted(fixtures.glob("*.ipns-record")):
        name = record.name.split(".")[0].split("_")[0]
        put = subprocess.run([BIN, "name", "put", name, str(record)], env=env, capture_output=True, text=True)
        broken = any(mark in record.name for mark in BROKEN)
        assert (put.returncode != 0) == broken, f"name put {record.name}: exit {put.returncode}, {put.stderr}"


def main():
    suite, flags = Path(sys.argv[1]).resolve(), sys.argv[2:]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=suite, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as tmp:
        root, fixtures = Path(tmp), Path(tmp, "fixtures")
        go(suite, "build", "-o", root / "tool", "./cmd/gateway-conformance")
        go(suite, "test", "-c", "-o", root / "suite", "./tests")
        env = {**os.environ, "GATEWAY_CONFORMANCE_HOME": str(suite)}
        env.pop("SPECS", None)
        subprocess.run([root / "tool", "extract-fixtures", "--merged", "--directory", fixtures], env=env, check=True, capture_output=True)
        hosts = ("--subdomain-host", "example.com", "--subdomain-host", "localhost")
        names = {"IPFS_NS_MAP": (fixtures / "dnslinks.IPFS_NS_MAP").read_text().strip()}
        with Server(root / "data", *hosts, "--cache-disk", "0", env=names) as server:
            fill(root, fixtures)
            port = server.gateway.split(":")[1]
            env |= {"GATEWAY_URL": f"http://{server.gateway}", "SUBDOMAIN_GATEWAY_URL": f"http://example.com:{port}"}
            done = subprocess.run([root / "suite", "-test.v", "-test.timeout=20m", *flags], cwd=suite / "tests", env=env, capture_output=True, text=True)
            assert server.stop() == 0
    lines = re.findall(r"^\s*--- (?:PASS|FAIL|SKIP): .*", done.stdout, re.M)
    counts = collections.Counter(line.split()[1].rstrip(":") for line in lines)
    functions = sum(line.startswith("---") for line in lines)
    for line in lines:
        if "PASS" not in line.split()[1]:
            print(line)
    print(f"gateway-conformance {commit}: {functions} functions, {counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
    return 1 if done.returncode or counts["FAIL"] or not counts["PASS"] else 0


if __name__ == "__main__":
    sys.exit(main())
