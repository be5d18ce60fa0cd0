//! A trustless gateway of plain files (<https://specs.ipfs.tech/http-gateways/trustless-gateway/>): raw blocks and CARs that
//! nginx serves as they are. A part of a file (`entity-bytes`) is more than files can answer.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::web::Nginx;
use super::{Scratch, tidegate};
use crate::car;
use crate::client;
use crate::net::namespace::Namespace;

/// `/ipfs/CID?format=raw` is the file `ipfs/CID.raw`, and a CAR likewise, whatever its scope; what is not there is 404.
const RULES: &str = "types { application/vnd.ipld.raw raw; \"application/vnd.ipld.car; version=1\" car; } \
                     location / { try_files $uri.$arg_format =404; }";
/// The empty block, by its identity CID: clients ask for it to find out whether a server takes part.
const EMPTY: &str = "bafkqaaa";

/// One folder for all web servers, as all have the same contents.
pub struct Shelf {
    folder: Scratch,
    /// Without links: what makes the CARs reaches nobody.
    namespace: Namespace,
}

impl Shelf {
    pub fn new(scratch: &Path) -> io::Result<Self> {
        let shelf = Self { folder: Scratch::new(scratch, "shelf")?, namespace: Namespace::new("shelf")? };
        fs::create_dir_all(shelf.files())?;
        fs::write(shelf.files().join(format!("{EMPTY}.raw")), [])?;
        Ok(shelf)
    }

    fn root(&self) -> PathBuf {
        self.folder.0.join("www")
    }

    fn files(&self) -> PathBuf {
        self.root().join("ipfs")
    }

    /// Starts a web server of what is here and will be.
    pub fn serve(&self, namespace: &Namespace, scratch: &Path, address: &str) -> io::Result<Nginx> {
        let listen: SocketAddr = format!("{address}:{}", tidegate::HTTP_PORT).parse().map_err(io::Error::other)?;
        let data = Scratch::new(scratch, "nginx")?;
        let mut nginx = Nginx::serve(namespace, data, self.root(), &listen.to_string(), RULES)?;
        nginx.check()?;
        let empty = client::get_in(namespace, listen, &format!("/ipfs/{EMPTY}?format=raw"))?;
        if (empty.status, empty.bytes) != (200, 0) {
            let text = format!("nginx answered {} with {} bytes to the empty block", empty.status, empty.bytes);
            return Err(io::Error::other(text));
        }
        Ok(nginx)
    }

    /// Takes a file in; its CID.
    pub fn add(&self, path: &Path) -> io::Result<String> {
        let (cid, archive) = tidegate::import(&self.namespace, &self.folder.0, path)?;
        for (name, data) in files(&cid, &archive)? {
            fs::write(self.files().join(name), data)?;
        }
        Ok(cid)
    }

    /// Removes all contents, so that long runs do not fill the disk.
    pub fn clear(&self) {
        let files = fs::read_dir(self.files()).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        for file in files.filter(|file| file.file_stem().is_some_and(|stem| stem != EMPTY)) {
            let _ = fs::remove_file(file);
        }
    }
}

/// The files of a CAR, by name: itself under its root, and each block.
fn files<'a>(root: &str, archive: &'a [u8]) -> io::Result<Vec<(String, &'a [u8])>> {
    let mut files = vec![(format!("{root}.car"), archive)];
    for (cid, data) in car::blocks(archive)? {
        files.push((format!("{}.raw", multibase::encode(multibase::Base::Base32Lower, cid)), data));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::web;

    /// Of no bytes, with the raw codec and with dag-pb.
    const RAW: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    const DAG_PB: &str = "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";

    #[test]
    fn a_car_becomes_a_file_of_its_own_and_one_of_each_block() {
        let sha256 = hex::decode("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap();
        let section =
            |codec: u8, data: &[u8]| [&[36 + data.len() as u8, 1, codec, 0x12, 32], &sha256[..], data].concat();
        let archive = [vec![1, 0xa0], section(0x70, b"root"), section(0x55, b"")].concat();
        let found = files(DAG_PB, &archive).unwrap();
        let wanted = [
            (format!("{DAG_PB}.car"), &archive[..]),
            (format!("{DAG_PB}.raw"), &b"root"[..]),
            (format!("{RAW}.raw"), &b""[..]),
        ];
        assert_eq!(found, wanted);
        assert!(files(DAG_PB, &archive[..archive.len() - 1]).is_err());
    }

    #[test]
    fn nginx_is_told_where_what_and_of_which_type() {
        let text = web::config(Path::new("/d"), Path::new("/d/www"), "10.77.0.2:8080", RULES);
        for part in ["listen 10.77.0.2:8080; root /d/www;", "raw raw;", "\"application/vnd.ipld.car; version=1\" car;"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("{ try_files $uri.$arg_format =404; } } }"), "every brace is closed: {text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
    }
}
