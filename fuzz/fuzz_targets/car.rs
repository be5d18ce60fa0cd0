#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::car::{CarError, CarItem, CarReader, Limits};

fn read(data: &[u8], piece: usize) -> (Vec<CarItem>, Result<(), CarError>) {
    let mut reader = CarReader::new(Limits::default());
    let mut items = Vec::new();
    for part in data.chunks(piece) {
        reader.push(Bytes::copy_from_slice(part));
        loop {
            match reader.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(error) => return (items, Err(error)),
            }
        }
    }
    let end = reader.finish();
    (items, end)
}

// However the bytes arrive, the same items come out, and the same verdict.
fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let whole = read(rest, rest.len().max(1));
    let pieces = read(rest, usize::from(*first) + 1);
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.1.is_ok(), pieces.1.is_ok());
});
