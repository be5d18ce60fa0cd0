#!/usr/bin/env python3
"""What must hold under crashes, full disks and crowds, on a release binary (TIDEGATE_BIN). Prints its figures.

    python3 tests/live/reliability.py [NAME ...]
"""

import asyncio
import hashlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import outages  # noqa: E402
from tidegate import BIN, Server, add, request  # noqa: E402

KILLS = int(os.environ.get("TIDEGATE_KILLS", "50"))
SEED = int(os.environ.get("TIDEGATE_SEED", "20261123"))


def kill_during_add():
    """kill -9 during add at random moments: restart in under 2 s, no acknowledged pin lost, no corrupt block served."""
    rng = random.Random(SEED)
    acknowledged, slowest = {}, 0.0
    with tempfile.TemporaryDirectory() as root:
        for round_number in range(KILLS):
            with Server(f"{root}/data", "--offline", "--cache-disk", "0", "--database", "none") as server:
                slowest = max(slowest, server.start_seconds)
                lost = set(acknowledged) - server.pins()
                assert not lost, f"round {round_number}: lost pins {lost}"
                lock = threading.Lock()

                def adder(seed):
                    own = random.Random(seed)
                    while True:
                        data = own.randbytes(own.choice([1, 1000, 300_000, 3_000_000]))
                        try:
                            cid = add(server, data)
                        except (OSError, RuntimeError, ValueError, Exception):  # noqa: B014 the server was killed
                            return
                        with lock:
                            acknowledged[cid] = hashlib.sha256(data).digest()

                threads = [threading.Thread(target=adder, args=(rng.random(),)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                time.sleep(rng.uniform(0.02, 0.7))
                server.kill()
                server.process.wait()
                for thread in threads:
                    thread.join()
        with Server(f"{root}/data", "--offline", "--cache-disk", "0", "--database", "none") as server:
            lost = set(acknowledged) - server.pins()
            assert not lost, f"lost pins: {lost}"
            for cid, digest in acknowledged.items():
                status, _, body = server.get(f"/ipfs/{cid}")
                assert status == 200 and hashlib.sha256(body).digest() == digest, f"{cid}: {status}"
            leftovers = [p for p in Path(root, "data", "blocks", "tmp").glob("*")]
            assert not leftovers, f"stale temporary files: {leftovers}"
            assert server.stop() == 0
        assert slowest < 2.0, f"slowest start {slowest:.2f} s"
        assert len(acknowledged) > KILLS, "the adds hardly ran: the check proves nothing"
    return f"{KILLS} kills, {len(acknowledged)} acknowledged adds all there, slowest restart {slowest:.2f} s"


async def fetch_hash(host, path, pace=None, stop_after=None):
    """GET by hand: hash and length of the body; `pace` = (bytes, seconds) reads slowly."""
    name, port = host.split(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=64 * 1024)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split()[1])
    chunked = b"transfer-encoding: chunked" in head.lower()
    digest, length = hashlib.sha256(), 0
    started = time.monotonic()
    while True:
        part = await reader.read(pace[0] if pace else 64 * 1024)
        if not part:
            break
        digest.update(part)
        length += len(part)
        if stop_after and time.monotonic() - started > stop_after:
            break
        if pace:
            await asyncio.sleep(pace[1])
    writer.close()
    return status, chunked, length, digest.hexdigest()


def thousand_for_one_cid():
    """1,000 concurrent requests for one cold CID cause one upstream fetch per block."""
    size = 4_000_000
    data = random.Random(SEED).randbytes(size)
    with tempfile.TemporaryDirectory() as root:
        with Server(f"{root}/a", "--database", "none") as origin:
            cid = add(origin, data)
            served_before = origin.metric("tidegate_bitswap_blocks_sent_total") or 0
            with Server(f"{root}/b", "--peer", origin.peer) as server:

                async def crowd():
                    return await asyncio.gather(*(fetch_hash(server.gateway, f"/ipfs/{cid}") for _ in range(1000)))

                started = time.monotonic()
                results = asyncio.run(crowd())
                seconds = time.monotonic() - started
                expected = hashlib.sha256(data).hexdigest()
                assert all(status == 200 for status, *_ in results), {status for status, *_ in results}
                assert all(chunked or digest == expected for _, chunked, _, digest in results)
                blocks = 1 + -(-size // (256 * 1024))
                served = (origin.metric("tidegate_bitswap_blocks_sent_total") or 0) - served_before
                assert served == blocks, f"{served} blocks were sent upstream for {blocks}"
                peak = server.memory("VmHWM") / 2**20
    return f"1,000 requests of {size / 1e6:.0f} MB in {seconds:.1f} s, {served:.0f} blocks upstream for {blocks}, peak {peak:.0f} MiB"


def slow_readers():
    """Memory stays under 400 MB while 100 clients read a 1 GB file slowly."""
    limit = 400e6
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "big")
        with open("/dev/urandom", "rb") as source, open(path, "wb") as out:
            for _ in range(1000):
                out.write(source.read(1_000_000))
        with Server(f"{root}/a", "--database", "none") as origin:
            started = time.monotonic()
            done = subprocess.run([BIN, "add", "-q", str(path), "--data-dir", f"{root}/a"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            cid, add_seconds = done.stdout.strip(), time.monotonic() - started
            path.unlink()
            with Server(f"{root}/b", "--peer", origin.peer) as server:
                idle = server.memory() / 1e6
                highest = 0.0

                async def crowd():
                    nonlocal highest
                    readers = [
                        asyncio.create_task(fetch_hash(server.gateway, f"/ipfs/{cid}", (64 * 1024, 0.05), 25))
                        for _ in range(100)
                    ]
                    while not all(reader.done() for reader in readers):
                        highest = max(highest, server.memory())
                        await asyncio.sleep(0.2)
                    return await asyncio.gather(*readers)

                results = asyncio.run(crowd())
                assert all(status == 200 for status, *_ in results)
                total = sum(length for *_, length, _ in results)
                assert total > 100 * 5e6, f"the readers read only {total / 1e6:.0f} MB"
                assert highest < limit, f"resident memory reached {highest / 1e6:.0f} MB"
    return (f"100 readers read {total / 1e6:.0f} MB in 25 s; resident at most {highest / 1e6:.0f} MB (idle {idle:.0f} MB); "
            f"adding 1 GB took {add_seconds:.1f} s")


def full_disk():
    """On a full disk reads and pass-through fetches go on, writes fail with 507 and exit 6, and it recovers."""
    if os.geteuid() != 0:
        return "SKIPPED: mounting a small tmpfs needs root"
    with tempfile.TemporaryDirectory() as root:
        small = Path(root, "small")
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(small)], check=True)
        try:
            with Server(f"{root}/a", "--database", "none") as origin:
                remote = random.Random(1).randbytes(3_000_000)
                remote_cid = add(origin, remote)
                with Server(small / "data", "--peer", origin.peer, "--cache-disk", "0") as server:
                    kept = random.Random(2).randbytes(1_000_000)
                    kept_cid = add(server, kept)
                    filler = small / "filler"
                    # Unbuffered: what is left in a buffer would fail once more when the file is closed.
                    with open(filler, "wb", buffering=0) as out:
                        try:
                            while True:
                                out.write(b"\0" * 65536)
                        except OSError:
                            pass
                    status, answer = server.api("POST", "add", body=random.Random(3).randbytes(5_000_000))
                    assert status == 507, (status, answer)
                    big = Path(root, "big")
                    big.write_bytes(random.Random(4).randbytes(5_000_000))
                    done = subprocess.run([BIN, "add", str(big), "--data-dir", str(small / "data")], capture_output=True, text=True)
                    assert done.returncode == 6, (done.returncode, done.stderr)
                    assert server.get(f"/ipfs/{kept_cid}")[2] == kept, "a kept file is not readable"
                    assert server.get(f"/ipfs/{remote_cid}")[2] == remote, "pass-through fetch failed"
                    filler.unlink()
                    again = random.Random(5).randbytes(1_000_000)
                    assert server.get(f"/ipfs/{add(server, again)}")[2] == again, "no recovery when space returned"
                    assert server.stop() == 0
        finally:
            subprocess.run(["umount", "-l", str(small)], check=False)
    return f"507 and exit 6 ({done.stderr.strip().splitlines()[0]}); reads and fetches went on; recovered"


def flipped_bit():
    """A flipped bit on disk is never served: the block is deleted and fetched again."""
    data = random.Random(SEED).randbytes(600_000)
    with tempfile.TemporaryDirectory() as root:
        with Server(f"{root}/a", "--database", "none") as origin:
            cid = add(origin, data)
            with Server(f"{root}/b", "--peer", origin.peer, "--cache-disk", "0", "--database", "none") as server:
                status, _ = server.api("PUT", f"pins/{cid}")
                assert status in (200, 201), status
                assert server.stop() == 0
            files = sorted(Path(root, "b", "blocks").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
            victim = files[-1]
            damaged = bytearray(victim.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            victim.write_bytes(damaged)
            with Server(f"{root}/b", "--peer", origin.peer, "--cache-disk", "0", "--database", "none") as server:
                status, _, body = server.get(f"/ipfs/{cid}")
                assert status == 200 and body == data, "the damaged block was served, or not fetched again"
    return "the damaged block was fetched again"


def clean_stop():
    """SIGTERM under load: requests in flight finish, exit 0."""
    data = random.Random(SEED).randbytes(8_000_000)
    with tempfile.TemporaryDirectory() as root:
        with Server(f"{root}/a", "--offline") as server:
            cid = add(server, data)

            async def during():
                reading = [asyncio.create_task(fetch_hash(server.gateway, f"/ipfs/{cid}", (64 * 1024, 0.01))) for _ in range(10)]
                await asyncio.sleep(0.3)
                server.kill(signal.SIGTERM)
                return await asyncio.gather(*reading)

            results = asyncio.run(during())
            assert all(length == len(data) for *_, length, _ in results), [length for *_, length, _ in results]
            code = server.process.wait(timeout=40)
            assert code == 0, code
    return "10 slow requests finished after SIGTERM, exit 0"


def database_away():
    """A database that is missing or locked does not slow a fetch; the server says so and recovers without a restart."""
    data = random.Random(SEED).randbytes(3_000_000)
    with tempfile.TemporaryDirectory() as root:
        with Server(f"{root}/a", "--database", "none") as origin:
            cid = add(origin, data)
            with Server(f"{root}/missing", "--peer", origin.peer, "--database", "postgres://nobody@127.0.0.1:1/none") as server:
                started = time.monotonic()
                assert server.get(f"/ipfs/{cid}")[2] == data
                without = time.monotonic() - started
                assert b"down" in request(server.admin, "GET", "/readyz")[2].lower(), "readyz hides the missing database"
                assert request(server.admin, "GET", "/")[0] == 200, "the Overview does not open without a database"
                assert server.stop() == 0
            with Server(f"{root}/locked", "--peer", origin.peer) as server:
                lock = sqlite3.connect(f"{root}/locked/metrics.sqlite", isolation_level=None, timeout=20)
                lock.execute("BEGIN EXCLUSIVE")
                started = time.monotonic()
                status, headers, body = server.get(f"/ipfs/{cid}")
                locked = time.monotonic() - started
                assert body == data, status
                lock.execute("COMMIT")
                lock.close()
                wanted = headers["tidegate-retrieval"]
                for _ in range(150):
                    if server.api("GET", f"retrievals/{wanted}")[0] == 200:
                        break
                    time.sleep(0.2)
                else:
                    raise AssertionError("the row of a fetch under a locked database never came")
                assert server.stop() == 0
    return f"3 MB in {without * 1e3:.0f} ms without a database, {locked * 1e3:.0f} ms under a locked one, whose row came after the lock"


CHECKS = [database_away, *outages.CHECKS, kill_during_add, thousand_for_one_cid, slow_readers, full_disk, flipped_bit, clean_stop]


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = set(sys.argv[1:])
    unknown = wanted - {check.__name__ for check in CHECKS}
    if unknown:
        sys.exit(f"no such check: {unknown}; there are {[check.__name__ for check in CHECKS]}")
    failed = passed = skipped = 0
    for check in CHECKS:
        if wanted and check.__name__ not in wanted:
            continue
        started = time.monotonic()
        try:
            outcome = check()
        except AssertionError as error:
            outcome, failed = f"FAILED: {error}", failed + 1
        else:
            skipped += outcome.startswith("SKIPPED")
            passed += not outcome.startswith("SKIPPED")
        print(f"{check.__name__}: {outcome} [{time.monotonic() - started:.0f} s]", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed or (skipped and os.environ.get("CI")) else 0)


if __name__ == "__main__":
    main()
