#!/usr/bin/env python3
"""A real Kubo and Tidegate exchange content over TCP and over QUIC, in both directions, compared by SHA-256; Kubo's CIDs
equal ours; one of two providers is stopped in the middle of a transfer.

    TIDEGATE_BIN=... TIDEGATE_KUBO=... python3 tests/live/interop.py [--quick]
"""

import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kubo import Kubo  # noqa: E402
from tidegate import BIN, QUIET, Server  # noqa: E402

QUICK = "--quick" in sys.argv
FILES = {"0 B": 0, "1 B": 1, "256 KiB - 1": 262_143, "256 KiB": 262_144, "256 KiB + 1": 262_145, "5 MB": 5_000_000}
if not QUICK:
    FILES["100 MB"] = 100_000_000
FOLDERS = {"1,000 files": 1_000, "HAMT of 10,000": 10_000}
LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}


def make_folder(path, count, seed):
    rng = random.Random(seed)
    path.mkdir()
    for number in range(count):
        (path / f"entry-{seed}-{number:05}.txt").write_bytes(rng.randbytes(rng.randrange(1, 40)))
    return path


def make_file(path, size, seed):
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def tree_hash(path):
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def cli(data_dir, *args):
    done = subprocess.run([BIN, *args, "--data-dir", str(data_dir)], env={**os.environ, **QUIET}, capture_output=True, text=True)
    assert done.returncode == 0, f"tidegate {' '.join(map(str, args))}: exit {done.returncode}: {done.stderr}"
    return done.stdout.strip()


def contents(root, seed):
    """(name, path) of everything that is exchanged; different bytes for different seeds."""
    for name, size in FILES.items():
        yield name, make_file(root / f"file-{size}-{seed}", size, f"{seed}-{size}")
    for name, count in FOLDERS.items():
        yield name, make_folder(root / f"folder-{count}-{seed}", count, f"{seed}-{count}")


def get_hash(host, path):
    connection = http.client.HTTPConnection(host, timeout=120)
    connection.request("GET", path)
    response = connection.getresponse()
    digest = hashlib.sha256()
    while part := response.read(1 << 20):
        digest.update(part)
    assert response.status == 200, (path, response.status)
    return digest.hexdigest()


def wait_for_peer(server, transport):
    for _ in range(100):
        peers = server.api("GET", "p2p/peers")[1]["items"]
        if peers:
            assert transport in peers[0]["transport"], peers
            return
        time.sleep(0.1)
    raise AssertionError("the peer did not connect")


def both_directions(transport):
    figures = []
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        with Kubo(root / "kubo", [transport]) as kubo:
            address = kubo.addresses[0]
            assert ("quic" in address) == (transport == "quic"), address
            with Server(root / "ours", "--peer", address, "--listen", LISTEN[transport]) as server:
                wait_for_peer(server, transport)
                for name, path in contents(root, f"{transport}-theirs"):
                    folder = path.is_dir()
                    cid = kubo.add(path, *(["-r"] if folder else []))
                    ours = cli(root / "alone", "add", "-q", *(["-r"] if folder else []), path)
                    assert ours == cid, f"{transport} {name}: Kubo says {cid}, we say {ours}"
                    started = time.monotonic()
                    if folder:
                        cli(root / "ours", "get", cid, "-o", root / "got")
                        got = tree_hash(root / "got")
                        subprocess.run(["rm", "-rf", str(root / "got")], check=True)
                    else:
                        got = get_hash(server.gateway, f"/ipfs/{cid}")
                    assert got == tree_hash(path), f"{transport} {name}: the bytes differ"
                    figures.append(f"{name} {time.monotonic() - started:.2f} s")
                print(f"{transport}, Kubo to Tidegate: {', '.join(figures)}", flush=True)
                figures.clear()
                for name, path in contents(root, f"{transport}-ours"):
                    cid = cli(root / "ours", "add", "-q", *(["-r"] if path.is_dir() else []), path)
                    started = time.monotonic()
                    # Kubo's get asks for one file after the other, 20 ms each; its pin fetches the same blocks in parallel.
                    kubo("pin", "add", cid)
                    kubo("get", "-o", str(root / "kubo-got"), f"/ipfs/{cid}")
                    assert tree_hash(root / "kubo-got") == tree_hash(path), f"{transport} {name}: Kubo got other bytes"
                    figures.append(f"{name} {time.monotonic() - started:.2f} s")
                    subprocess.run(["rm", "-rf", str(root / "kubo-got")], check=True)
                print(f"{transport}, Tidegate to Kubo: {', '.join(figures)}", flush=True)
                assert server.stop() == 0


def stopped_provider(transport):
    """Two providers, one SIGSTOPped mid-transfer: the file completes and the row says stalled, with the peer and its bytes.

    On loopback one provider is fast enough for everything: a transfer in which the stopped one had nothing to do proves
    nothing and is done again, with fresh content."""
    for attempt in range(20):
        if stop_one(transport, attempt):
            return
    raise AssertionError("the stopped provider was never in use")


def stop_one(transport, number):
    size = 200_000_000  # more than is read ahead, so that blocks are still wanted when it is stopped
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        path = make_file(root / "file", size, f"stop-{transport}-{number}")
        with Kubo(root / "k1", [transport]) as first, Kubo(root / "k2", [transport]) as second:
            cid = first.add(path)
            assert second.add(path) == cid
            peers = [first.addresses[0], second.addresses[0]]
            with Server(root / "ours", "--peer", peers[0], "--peer", peers[1], "--listen", LISTEN[transport]) as server:
                for _ in range(100):
                    if len(server.api("GET", "p2p/peers")[1]["items"]) == 2:
                        break
                    time.sleep(0.1)
                connection = http.client.HTTPConnection(server.gateway, timeout=60)
                connection.request("GET", f"/ipfs/{cid}")
                response = connection.getresponse()
                retrieval = response.headers["Tidegate-Retrieval"]
                digest, length, stopped = hashlib.sha256(), 0, None
                started = time.monotonic()
                while part := response.read(1 << 18):
                    digest.update(part)
                    length += len(part)
                    if not stopped and length > size // 10:
                        second.process.send_signal(signal.SIGSTOP)
                        stopped = time.monotonic()
                    time.sleep(0.001)
                seconds = time.monotonic() - started
                second.process.send_signal(signal.SIGCONT)
                assert length == size and digest.hexdigest() == tree_hash(path), f"{length} of {size} bytes"
                stalled_peer = peers[1].rsplit("/", 1)[1]
                for _ in range(50):
                    status, detail = server.api("GET", f"retrievals/{retrieval}")
                    if status == 200:
                        break
                    time.sleep(0.2)
                assert status == 200, (status, detail)
                attempts = {attempt["peer_id"]: attempt for attempt in detail["attempts"]}
                attempt = attempts.get(stalled_peer)
                if not attempt or not attempt["bytes"] or attempt["outcome"] in ("cancelled", "delivered"):
                    print(f"{transport}: the stopped provider had nothing to do, once more", flush=True)
                    return False
                assert attempt["outcome"] == "stalled" and attempt["bytes"] > 0, json.dumps(detail["attempts"])
                print(f"{transport}, one of two providers stopped at a tenth: complete in {seconds:.2f} s; its row says "
                      f"{attempt['outcome']} after {attempt['bytes']} bytes", flush=True)
                return True


def main():
    for transport in ("tcp", "quic"):
        both_directions(transport)
        stopped_provider(transport)
    print("4 passed, 0 failed")


if __name__ == "__main__":
    main()
