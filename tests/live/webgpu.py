#!/usr/bin/env python3
"""The WebGPU lab in real browsers: headless Chromium on SwiftShader, Firefox ESR on lavapipe, and wgpu without a browser.

    TIDEGATE_BIN=... TIDEGATE_NPM=... python3 tests/live/webgpu.py [SCREENSHOTS]

TIDEGATE_BIN should be built with --features gpu; without it the native part is skipped, saying so. Needs Chromium,
firefox-esr, mesa-vulkan-drivers, Node and tests/browser's packages (TIDEGATE_NPM names the folder of node_modules).
"""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import make_model  # noqa: E402
from browser import node  # noqa: E402
from tidegate import BIN, QUIET, Server, request  # noqa: E402

SHAPES = {"64x1x1", "128x1x1", "256x1x1", "8x8x1", "16x16x1", "128x2x1", "64x2x2"}
TOLERANCE = {"log-mel": 5e-3, "attention": 1e-4}
passed = []


def check(name, condition, *facts):
    assert condition, (name, *facts)
    passed.append(name)
    print(f"ok: {name}", flush=True)


def lab(server, browser, query="", **env):
    ran = node("webgpu.mjs", {"ADMIN": f"http://{server.admin}", "BROWSER": browser, "QUERY": query, **env},
               stdout=subprocess.PIPE, timeout=400)
    assert ran.returncode == 0, ran.stdout
    return json.loads(ran.stdout.strip().splitlines()[-1])


def rows(root, where, *values):
    database = sqlite3.connect(f"file:{root}/metrics.sqlite?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in database.execute(f"SELECT * FROM webgpu_metrics WHERE {where}", values)]
    finally:
        database.close()


def sql(root, text, *values):
    database = sqlite3.connect(f"file:{root}/metrics.sqlite?mode=ro", uri=True)
    try:
        return database.execute(text, values).fetchall()
    finally:
        database.close()


def complete(name, found):
    """One full run's rows: every shape verified, marked as software, the published columns filled."""
    for workload, tolerance in TOLERANCE.items():
        swept = [row for row in found if row["workload"] == workload]
        check(f"{name}: {workload} with every shape", {row["workgroup_size"] for row in swept} == SHAPES, swept)
        check(f"{name}: {workload} verified, within {tolerance}",
              all(row["verified"] and row["max_error"] <= tolerance for row in swept), swept)
        check(f"{name}: {workload} has n, median, p95", all(
            row["samples"] >= 10 and 0 < row["subsequent_inference_time_ms"] <= row["p95_ms"] for row in swept), swept)
        fastest = min(row["subsequent_inference_time_ms"] for row in swept)
        check(f"{name}: {workload} scores are fastest / this", all(
            abs(row["optimization_score"] - fastest / row["subsequent_inference_time_ms"]) < 1e-9 for row in swept))
    check(f"{name}: marked as software", all(row["is_simulated"] for row in found))
    starts = {row["variant"]: row for row in found if row["workload"] == "start"}
    check(f"{name}: precompiled and on demand", set(starts) == {"precompiled", "on-demand"} and all(
        row["verified"] and row["first_inference_time_ms"] > 0 for row in starts.values()), starts)
    compiled = {row["variant"]: row for row in found if row["workload"] == "compile"}
    check(f"{name}: compile times four ways", set(compiled) == {"cold-1", "cached-1", "sequential-6", "parallel-6"} and all(
        row["pipeline_creation_time_ms"] >= 0 for row in compiled.values()), compiled)
    best = {w: min((r for r in found if r["workload"] == w), key=lambda r: r["subsequent_inference_time_ms"]) for w in TOLERANCE}
    print(f"   {name}: first inference {starts['precompiled']['first_inference_time_ms']:.1f} ms precompiled, "
          f"{starts['on-demand']['first_inference_time_ms']:.1f} ms on demand; " + "; ".join(
              f"{w} {r['subsequent_inference_time_ms']:.2f} ms with {r['workgroup_size']}, error {r['max_error']:.1e}"
              for w, r in best.items()), flush=True)


def loaded(name, found, cid):
    passes = [row for row in found if row["workload"] == "load"]
    ways = {(row["variant"], row["load_streams"]) for row in passes}
    expected = {("files-first", 1)} | {(way, n) for way in ("files-warm", "ranges-warm") for n in (1, 2, 4, 8)}
    check(f"{name}: loads by files and ranges, 1 to 8 streams", ways == expected, ways)
    check(f"{name}: every load verified", all(row["verified"] and row["cid"] == cid for row in passes), passes)
    text = ", ".join(f"{r['variant']}/{r['load_streams']} {r['load_parallel_ms'] or r['load_sequential_ms']:.0f} ms" for r in passes)
    print(f"   {name}: {text}", flush=True)


def browser_runs(server, root, cid, out):
    for browser, called in (("chromium", "Chrom"), ("firefox", "Firefox")):
        seen = lab(server, browser, MODEL=cid, OUT=str(out / browser))
        check(f"{browser}: the run ends well", seen["state"] == "done", seen["status"], seen["console"])
        check(f"{browser}: nothing on the console", not seen["console"], seen["console"])
        check(f"{browser}: the page is isolated and offers another run", seen["isolated"] and seen["again"] == "Run again", seen)
        found = rows(root, "submission_id = ?", seen["stored"])
        check(f"{browser}: names itself", all(called in row["browser_name"] and row["browser_version"] for row in found), found[:1])
        complete(browser, found)
        loaded(browser, found, cid)
        print(f"   {browser}: the run took {seen['copied']['duration_ms'] / 1000:.1f} s", flush=True)
        timed = [row for row in found if row["gpu_time_ms"] is not None]
        check(f"{browser}: GPU time apart from wall time", len(timed) == 2 * len(SHAPES), len(timed))


def faults(server, root):
    # Chromium without --enable-unsafe-webgpu really gives null; Firefox without the preference really has no navigator.gpu.
    cases = [
        ("a null adapter", "chromium", "", {"GPU": "no"}, "no-adapter", "no adapter"),
        ("a browser without WebGPU", "firefox", "", {"GPU": "no"}, "no-webgpu", "no WebGPU"),
        ("an adapter refused on request", "chromium", "?fault=adapter", {}, "no-adapter", "no adapter"),
        ("a broken shader", "chromium", "?fault=shader", {}, "validation", "compile"),
        ("a broken shader in Firefox", "firefox", "?fault=shader", {}, "validation", "compile"),
        ("a lost device", "chromium", "?fault=lost", {}, "device-lost", "lost"),
        ("a lost device in Firefox", "firefox", "?fault=lost", {}, "device-lost", "lost"),
    ]
    for name, browser, query, env, kind, words in cases:
        seen = lab(server, browser, query, **env)
        check(f"{name}: the page says so", seen["state"] == "failed" and words in seen["status"], seen["status"])
        found = rows(root, "submission_id = ?", seen["stored"])
        detect = [row for row in found if row["workload"] == "detect"]
        check(f"{name}: an honest row", len(detect) == 1 and detect[0]["variant"] == kind and not detect[0]["verified"], found)
        (status, success, message), = sql(root, "SELECT status, success, error_message FROM test_results WHERE run_id = ?", seen["stored"])
        check(f"{name}: stored with its error", status == kind and not success and words in message, status, message)
        print(f"   {seen['status'][:160]}", flush=True)
    cancelled = lab(server, "chromium", CANCEL="yes")
    check("a cancelled run stores nothing", cancelled["state"] == "failed" and not cancelled["stored"]
          and "Cancelled" in cancelled["status"], cancelled["status"])


def native(server, root):
    ran = subprocess.run([BIN, "gpu", "bench", "--submit", "--json", "--data-dir", str(root)], env={**os.environ, **QUIET},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    if ran.returncode == 2 and "--features gpu" in ran.stderr:
        print("skipped: native (this binary is built without --features gpu)")
        return False
    check("native: the bench ends well", ran.returncode == 0, ran.stderr)
    found = rows(root, "origin = 'native'")
    complete("native", found)
    info = subprocess.run([BIN, "gpu", "info", "--json"], env={**os.environ, **QUIET}, stdout=subprocess.PIPE, text=True, check=True)
    check("native: info names the adapter", "llvmpipe" in info.stdout, info.stdout)
    return True


def page_without_scripts(server, cid, with_native):
    status, headers, body = request(server.admin, "GET", "/webgpu")
    page = body.decode()
    policy = headers["content-security-policy"]
    check("the lab page alone may ask the gateway", f"connect-src 'self' http://{server.gateway};" in policy
          and server.gateway not in request(server.admin, "GET", "/")[1]["content-security-policy"], policy)
    shown = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    for text in ["Firefox", "Chrom", "software", "verified", "64x2x2", "ranges", "Measuring needs JavaScript", cid,
                 "device lost", "Precompil"] + (["without a browser"] if with_native else []):
        check(f"without scripts the page shows {text!r}", text in shown)
    check("no figure that is none", not re.search(r"\bNaN\b|Infinity|undefined", shown))
    status, headers, body = request(server.admin, "GET", "/webgpu?format=csv")
    lines = body.decode().strip().split("\r\n")
    summary = server.api("GET", "webgpu/summary")[1]
    check("CSV and JSON exports hold the rows", status == 200 and len(lines) > 60 and len(summary["platforms"]) >= 2, len(lines))
    check("the model is in the models table", summary["models"][0]["cid"] == cid, summary["models"])


def gateway_headers(server, cid):
    _, headers, _ = server.get(f"/ipfs/{cid}/model-00001-of-00008.safetensors", {"Range": "bytes=0-7"})
    lower = {name.lower(): value for name, value in headers.items()}
    check("shards carry CORS, CORP and Timing-Allow-Origin", lower.get("access-control-allow-origin") == "*"
          and lower.get("cross-origin-resource-policy") == "cross-origin" and lower.get("timing-allow-origin") == "*", lower)


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="tidegate-webgpu-"))
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp) / "node"
        make_model.make(Path(tmp) / "model")
        with Server(root, "--offline") as server:
            added = subprocess.run([BIN, "add", "-r", "-q", str(Path(tmp) / "model"), "--data-dir", str(root)],
                                   env={**os.environ, **QUIET}, stdout=subprocess.PIPE, text=True, check=True)
            cid = added.stdout.strip().splitlines()[-1]
            gateway_headers(server, cid)
            browser_runs(server, root, cid, out)
            with_native = native(server, root)
            faults(server, root)
            lab(server, "chromium", "", GPU="no", OUT=str(out / "all"))
            page_without_scripts(server, cid, with_native)
            check("the server stops cleanly", server.stop() == 0)
    print(f"screenshots in {out}\n{len(passed)} passed, 0 failed")


if __name__ == "__main__":
    main()
