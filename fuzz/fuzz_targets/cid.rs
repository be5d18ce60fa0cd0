#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::cid;

fuzz_target!(|data: &[u8]| {
    if let Ok(cid) = cid::from_bytes(data) {
        assert_eq!(cid::from_bytes(&cid.to_bytes()), Ok(cid));
        assert_eq!(cid::parse(&cid.to_string()), Ok(cid));
    }
    if let Some(cid) = std::str::from_utf8(data).ok().and_then(|text| cid::parse(text).ok()) {
        assert_eq!(cid::parse(&cid::canonical(&cid)).map(|cid| *cid.hash()), Ok(*cid.hash()));
    }
});
