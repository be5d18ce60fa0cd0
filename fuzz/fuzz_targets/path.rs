#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::ContentPath;

fuzz_target!(|text: &str| {
    for path in [ContentPath::parse(text), ContentPath::parse_text(text)].into_iter().flatten() {
        assert!(path.segments.iter().all(|s| !matches!(&**s, "" | "." | "..") && !s.contains(['/', '\0'])));
        let url = path.to_url_path();
        // The canonical form may be longer than the limit; if it is not, it reads back as the same path.
        if let Ok(again) = ContentPath::parse(&url) {
            assert_eq!(again, path);
            assert_eq!(again.to_url_path(), url);
        }
    }
});
