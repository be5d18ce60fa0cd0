// @helia/verified-fetch against one gateway: raw blocks of a file and of a folder's file, and the CAR of the folder.
// Prints one line of JSON; tests/live/clients.py knows what it must say.
//
//   node verified-fetch.mjs http://127.0.0.1:PORT FILE_CID FOLDER_CID NAME
import { createHash } from "node:crypto";
import { CarBlockIterator } from "@ipld/car";
import { createVerifiedFetch } from "@helia/verified-fetch";
import { identify } from "@libp2p/identify";
import { sha256 } from "multiformats/hashes/sha2";

const [gateway, file, folder, name] = process.argv.slice(2);
const fetched = [];
const plain = globalThis.fetch;
// Nothing of the client is changed: this notes what it asks, and that it asks nobody else.
globalThis.fetch = (resource, init) => {
  fetched.push(`${new Headers(init?.headers).get("accept")} ${resource}`);
  return plain(resource, init);
};
const verifiedFetch = await createVerifiedFetch({
  gateways: [gateway],
  routers: [],
  allowLocal: true,
  allowInsecure: true,
  // Its defaults listen on all interfaces and dial the public bootstrap nodes: this machine is all there is.
  libp2pConfig: { addresses: { listen: [] }, peerDiscovery: [], services: { identify: identify() } },
});
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function whole(url, headers) {
  const response = await verifiedFetch(url, { headers, signal: AbortSignal.timeout(60_000) });
  if (response.status !== 200) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return { type: response.headers.get("content-type"), bytes: new Uint8Array(await response.arrayBuffer()) };
}

const big = await whole(`ipfs://${file}`);
const inner = await whole(`ipfs://${folder}/${encodeURIComponent(name)}`);
const part = await verifiedFetch(`ipfs://${file}`, { headers: { range: "bytes=1000-1999" } });
const car = await whole(`ipfs://${folder}`, { accept: "application/vnd.ipld.car; order=dfs; dups=n" });
const blocks = [];
for await (const { cid, bytes } of await CarBlockIterator.fromBytes(car.bytes)) {
  if (cid.multihash.code === sha256.code && digest(bytes) !== Buffer.from(cid.multihash.digest).toString("hex")) throw new Error(`${cid} is damaged`);
  blocks.push(cid.toString());
}
console.log(JSON.stringify({
  file: { size: big.bytes.length, sha256: digest(big.bytes) },
  inner: { size: inner.bytes.length, sha256: digest(inner.bytes), type: inner.type },
  part: { status: part.status, range: part.headers.get("content-range"), sha256: digest(new Uint8Array(await part.arrayBuffer())) },
  car: { type: car.type, blocks },
  requests: fetched.length,
  elsewhere: fetched.filter((line) => !line.includes(` ${gateway}/`)),
  accepts: [...new Set(fetched.map((line) => line.split(" ")[0]))],
}));
await verifiedFetch.stop();
process.exit(0);
