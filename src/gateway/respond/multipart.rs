//! `multipart/byteranges` (RFC 9110 §14.6): several ranges of one body.

use std::ops::Range;

use bytes::Bytes;

/// The frames around the parts.
#[derive(Debug, Clone)]
pub(in super::super) struct Multipart {
    boundary: String,
    /// `Content-Type` of the whole.
    of: String,
    size: u64,
    ranges: Vec<Range<u64>>,
}

impl Multipart {
    /// Of a body of `size` bytes with the content type `of`. The boundary is drawn by chance, so that no content holds it.
    pub(in super::super) fn new(of: &str, size: u64, ranges: Vec<Range<u64>>) -> Self {
        Self { boundary: format!("{:032x}", rand::random::<u128>()), of: of.to_owned(), size, ranges }
    }

    pub(in super::super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    pub(in super::super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// What stands before the bytes of that range.
    pub(in super::super) fn head(&self, index: usize, range: &Range<u64>) -> Bytes {
        let Self { boundary, of, size, .. } = self;
        let before = if index == 0 { "" } else { "\r\n" };
        let (first, last) = (range.start, range.end.saturating_sub(1));
        format!("{before}--{boundary}\r\nContent-Type: {of}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n")
            .into()
    }

    pub(in super::super) fn tail(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }

    /// Bytes of the whole answer.
    pub(in super::super) fn length(&self) -> u64 {
        let parts = self.ranges.iter().enumerate();
        let parts: u64 = parts.map(|(index, part)| self.head(index, part).len() as u64 + part.end - part.start).sum();
        parts + self.tail().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_what_is_sent() {
        let body = b"hello application/vnd.ipld.raw\n";
        let parts = Multipart::new("text/plain", body.len() as u64, vec![6..17, 0..5]);
        let mut sent = Vec::new();
        for (index, range) in parts.ranges().iter().enumerate() {
            sent.extend_from_slice(&parts.head(index, range));
            sent.extend_from_slice(&body[range.start as usize..range.end as usize]);
        }
        sent.extend_from_slice(&parts.tail());
        assert_eq!(sent.len() as u64, parts.length());
        let text = String::from_utf8(sent).unwrap();
        assert!(text.contains("Content-Range: bytes 6-16/31\r\n\r\napplication\r\n--"), "{text}");
        assert!(text.contains("Content-Range: bytes 0-4/31\r\n\r\nhello\r\n--"), "{text}");
    }
}
