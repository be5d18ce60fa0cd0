//! What people read and write: sizes in the configuration and on the command line, and names of strangers on pages and terminals.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes. Text forms: `512`, `64KiB`, `128MiB`, `10GiB`, `1TiB`, and the decimal `kB`, `MB`, `GB`, `TB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a size: write a number of bytes or, for example, 128MiB or 10GB")]
pub struct SizeError(String);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// For people: three significant digits, IEC units (`4.8 MiB`).
    pub fn human(self) -> String {
        let n = self.0 as f64;
        for (unit, size) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size {
                let value = n / size as f64;
                let digits = if value >= 100.0 { 0 } else { 1 };
                return format!("{value:.digits$} {unit}");
            }
        }
        format!("{} B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let trimmed = text.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, size)| trimmed.strip_suffix(name).map(|number| (number.trim(), *size)))
            .unwrap_or((trimmed, 1));
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    /// The shortest exact form, so that it can be read back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in &UNITS[..4] {
            if self.0 >= *size && self.0.is_multiple_of(*size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(n) => Ok(Self(n)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// A character without a look of its own, or one that changes the look of what follows: controls (ends of lines included), marks of
/// direction, joiners, tags. On a page such a name deceives, on a terminal it steers (CVE-2020-26283).
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A name of a stranger as it can be shown: what [`is_unseen`] is written as an escape.
pub fn visible(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    for c in name.chars() {
        if is_unseen(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_deceive_or_steer_are_written_out() {
        assert_eq!(visible("a\u{202e}txt.exe"), "a\\u{202e}txt.exe");
        assert_eq!(visible("a\r\nb\0\u{1b}[2J\u{9b}"), "a\\u{d}\\u{a}b\\u{0}\\u{1b}[2J\\u{9b}");
        assert_eq!(visible("\u{2028}\u{feff}\u{e0041}"), "\\u{2028}\\u{feff}\\u{e0041}");
        assert_eq!(visible("file-źł größe 1.txt"), "file-źł größe 1.txt");
    }

    #[test]
    fn sizes_read_and_print_as_people_write_them() {
        assert_eq!("128MiB".parse::<ByteSize>().unwrap(), ByteSize::mib(128));
        assert_eq!("10 GB".parse::<ByteSize>().unwrap(), ByteSize(10_000_000_000));
        assert_eq!("7".parse::<ByteSize>().unwrap().to_string(), "7");
        assert_eq!(ByteSize::gib(10).to_string(), "10GiB");
        assert_eq!(ByteSize(5_033_164).human(), "4.8 MiB");
        assert!("ten".parse::<ByteSize>().is_err());
        assert!("99999999999TiB".parse::<ByteSize>().is_err());
    }
}
