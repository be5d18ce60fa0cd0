#!/usr/bin/env python3
"""Two figures with their baselines in the same run, on loopback, release build (TIDEGATE_BIN):

1. 100 MB from one Kubo: Tidegate against a second Kubo, fresh content each time, taken in turn (A B A B ...).
2. Warm 1 MB over HTTP, one connection a core (wrk when it is installed).

    python3 tests/live/speed.py [--n 5] [--size 100000000]
"""

import argparse
import hashlib
import http.client
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kubo import Kubo  # noqa: E402
from tidegate import Server  # noqa: E402


def timed_get(host, path):
    """(seconds to first byte, seconds, sha256) of one GET on a fresh connection."""
    connection = http.client.HTTPConnection(host, timeout=300)
    started = time.monotonic()
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200, (host, path, response.status, response.read()[:500])
    digest, first = hashlib.sha256(), None
    while part := response.read(1 << 20):
        first = first or time.monotonic() - started
        digest.update(part)
    return first, time.monotonic() - started, digest.hexdigest()


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine():
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return f"{model}, {os.cpu_count()} cores, {os.uname().release}, TCP congestion control {congestion}"


def fetch_comparison(n, size, transport):
    with tempfile.TemporaryDirectory() as root:
        # A provider of its own for each contender would double the memory; both fetch the same fresh file, in turn.
        with Kubo(f"{root}/provider", [transport]) as provider, Kubo(f"{root}/second", [transport]) as second:
            address = provider.addresses[0]
            second.connect(address)
            with Server(f"{root}/t", "--peer", address, "--listen", "/ip4/127.0.0.1/tcp/0") as server:
                for _ in range(50):
                    if (server.api("GET", "p2p/peers")[1] or {}).get("items"):
                        break
                    time.sleep(0.1)
                times = {"tidegate": [], "kubo": []}
                firsts = {"tidegate": [], "kubo": []}
                cpus = {"tidegate": [], "kubo": []}
                for round_number in range(n + 1):
                    path = Path(root, "file")
                    data = os.urandom(size)
                    path.write_bytes(data)
                    expected = hashlib.sha256(data).hexdigest()
                    cid = provider.add(path)
                    order = ["tidegate", "kubo"] if round_number % 2 else ["kubo", "tidegate"]
                    for who in order:
                        host = server.gateway if who == "tidegate" else second.gateway
                        pid = server.pid if who == "tidegate" else second.process.pid
                        before = cpu(pid)
                        first, seconds, digest = timed_get(host, f"/ipfs/{cid}")
                        assert digest == expected, f"{who} sent wrong bytes"
                        if round_number:  # the first round warms both up
                            times[who].append(seconds)
                            firsts[who].append(first)
                            cpus[who].append(cpu(pid) - before)
    for who in times:
        median = statistics.median(times[who])
        print(f"{transport}: {who:8} {size / 1e6:.0f} MB from one Kubo: median {median:.3f} s ({size / median / 1e6:.0f} MB/s), "
              f"min {min(times[who]):.3f}, max {max(times[who]):.3f}, TTFB {statistics.median(firsts[who]) * 1e3:.0f} ms, "
              f"CPU {statistics.median(cpus[who]):.2f} s, n={n}")
    ratio = statistics.median(times["kubo"]) / statistics.median(times["tidegate"])
    print(f"{transport}: ratio kubo / tidegate = {ratio:.2f} (above 1: Tidegate is faster)")
    return ratio


def warm():
    if not shutil.which("wrk"):
        print("warm: SKIPPED, wrk is not installed (apt-get install wrk)")
        return
    with tempfile.TemporaryDirectory() as root, Server(f"{root}/t", "--offline", "--database", "none") as server:
        for size in (1_000, 100_000, 1_000_000, 10_000_000):
            status, answer = server.api("POST", "add", body=os.urandom(size))
            assert status in (200, 201), (status, answer)
            url = f"http://{server.gateway}/ipfs/{answer['cid']}"
            subprocess.run(["wrk", "-t1", "-c1", "-d1s", url], capture_output=True, check=True)
            for connections in (1, os.cpu_count()):
                threads = min(connections, os.cpu_count())
                out = subprocess.run(["wrk", f"-t{threads}", f"-c{connections}", "-d4s", "--latency", url],
                                     capture_output=True, text=True, check=True).stdout
                rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
                p50 = re.search(r"50%\s+(\S+)", out).group(1)
                print(f"warm {size / 1000:g} kB, {connections} connection(s): {rate:.0f} requests/s, {rate * size / 1e9:.2f} GB/s, p50 {p50}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--size", type=int, default=100_000_000)
    args = parser.parse_args()
    print(machine())
    for transport in ("tcp", "quic"):
        fetch_comparison(args.n, args.size, transport)
    warm()


if __name__ == "__main__":
    main()
