//! How figures are written for people. What was not measured is `None` and reads "no data" or a dash, never 0 or NaN.

use std::time::{Duration, SystemTime};

use crate::units::{ByteSize, is_unseen};

/// What stands in a table cell where nothing was measured.
pub const NONE: &str = "–";
/// What stands where a person looks for a figure.
pub const NO_DATA: &str = "no data";

/// A number and its unit, apart, because they are set in different sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    pub number: String,
    pub unit: String,
}

impl Quantity {
    fn new(number: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { number: number.into(), unit: unit.into() }
    }

    fn split(text: &str) -> Self {
        match text.rsplit_once(' ') {
            Some((number, unit)) => Self::new(number, unit),
            None => Self::new(text, ""),
        }
    }
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.unit.is_empty() { f.write_str(&self.number) } else { write!(f, "{} {}", self.number, self.unit) }
    }
}

/// `48,210`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `4.8 MiB`.
pub fn bytes(n: u64) -> Quantity {
    Quantity::split(&ByteSize(n).human())
}

/// Milliseconds as `0.4 ms`, `38 ms`, `1.21 s`, `3 min 5 s`; `None` for what is no time.
pub fn ms(value: Option<f64>) -> Option<Quantity> {
    let value = value.filter(|v| v.is_finite() && *v >= 0.0)?;
    Some(match value {
        v if v < 0.05 => Quantity::new("< 0.1", "ms"),
        v if v < 9.95 => Quantity::new(format!("{v:.1}"), "ms"),
        v if v < 999.5 => Quantity::new(format!("{v:.0}"), "ms"),
        v if v < 9_995.0 => Quantity::new(format!("{:.2}", v / 1e3), "s"),
        v if v < 99_950.0 => Quantity::new(format!("{:.1}", v / 1e3), "s"),
        v => {
            let seconds = (v / 1e3).round() as u64;
            Quantity::new(format!("{} min {}", seconds / 60, seconds % 60), "s")
        }
    })
}

/// A share as per cent; `None` when there is nothing to take a share of.
pub fn share(part: u64, whole: u64) -> Option<Quantity> {
    (whole > 0).then(|| percent(part as f64 / whole as f64))
}

/// 0..1 as per cent with the digits that make sense.
pub fn percent(fraction: f64) -> Quantity {
    let value = fraction * 100.0;
    let text = match value.abs() {
        v if v == 0.0 || v >= 99.95 => format!("{value:.0}"),
        v if v < 1.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    };
    Quantity::new(text, "%")
}

/// Bytes a second as `94 Mbit/s`; `None` for what is no rate.
pub fn rate(bytes_per_second: Option<f64>) -> Option<Quantity> {
    let bits = bytes_per_second.filter(|v| v.is_finite() && *v > 0.0)? * 8.0;
    let (value, unit) = match bits {
        b if b >= 1e9 => (b / 1e9, "Gbit/s"),
        b if b >= 1e6 => (b / 1e6, "Mbit/s"),
        b if b >= 1e3 => (b / 1e3, "kbit/s"),
        b => (b, "bit/s"),
    };
    Some(Quantity::new(if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }, unit))
}

/// A cell: the quantity or a dash.
pub fn cell(quantity: Option<Quantity>) -> String {
    quantity.map_or_else(|| NONE.to_owned(), |q| q.to_string())
}

/// The same with no-break spaces, so that a unit is not parted from its number at the end of a line.
pub fn unbroken(text: &str) -> String {
    text.replace(' ', "\u{a0}")
}

/// `bafybeig6ka…cijp3i`: the middle left out of a CID or peer id; the whole stands in the title.
pub fn short(text: &str) -> String {
    shorten(text, 11, 6)
}

/// Text of others (paths, details) cut to a length, control and direction characters shown as escapes.
pub fn tame(text: &str, max: usize) -> String {
    let mut tamed = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == max {
            tamed.push('…');
            break;
        }
        if is_unseen(c) {
            tamed.extend(c.escape_unicode());
        } else {
            tamed.push(c);
        }
    }
    tamed
}

fn shorten(text: &str, head: usize, tail: usize) -> String {
    let length = text.chars().count();
    if length <= head + tail + 1 {
        return text.to_owned();
    }
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

/// `just now`, `12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`.
pub fn ago(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..=1 => "just now".to_owned(),
        2..=89 => format!("{seconds} s ago"),
        90..=5_399 => format!("{} min ago", (seconds + 30) / 60),
        5_400..=172_799 => format!("{} h ago", (seconds + 1_800) / 3_600),
        _ => format!("{} d ago", (seconds + 43_200) / 86_400),
    }
}

/// `2026-11-23T14:05:09Z`.
pub fn iso(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// `2026-11-23 14:05:09 UTC`.
pub fn utc(at: SystemTime) -> String {
    let text = iso(at);
    format!("{} UTC", text.trim_end_matches('Z').replacen('T', " ", 1))
}

/// `14:05`, UTC.
pub fn clock(at: SystemTime) -> String {
    iso(at).get(11..16).unwrap_or_default().to_owned()
}

/// Microseconds since the epoch, as rows hold them.
pub fn from_us(us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_never_reads_as_zero_or_nan() {
        assert_eq!(cell(share(0, 0)), NONE);
        assert_eq!(cell(ms(Some(f64::NAN))), NONE);
        assert_eq!(cell(ms(Some(f64::INFINITY))), NONE);
        assert_eq!(cell(rate(Some(0.0))), NONE);
        assert_eq!(cell(share(0, 7)), "0 %");
    }

    #[test]
    fn figures_carry_the_digits_that_help() {
        assert_eq!(cell(ms(Some(0.42))), "0.4 ms");
        assert_eq!(cell(ms(Some(1_210.0))), "1.21 s");
        assert_eq!(cell(ms(Some(185_000.0))), "3 min 5 s");
        assert_eq!(cell(share(2_100, 1_000_000)), "0.21 %");
        assert_eq!(count(1_048_576), "1,048,576");
        assert_eq!(cell(rate(Some(11_750_000.0))), "94 Mbit/s");
        assert_eq!(bytes(5_033_164).to_string(), "4.8 MiB");
    }

    #[test]
    fn long_names_lose_their_middle_and_hidden_characters_show() {
        assert_eq!(short("bafybeig6ka5mlwkj7rj5lxvzbdqcyoahbh3jm2v5ulwhnmgmhca27cijp3i").chars().count(), 18);
        assert_eq!(short("bafkqaaa"), "bafkqaaa");
        assert_eq!(tame("a\u{202e}b\r\n", 20), "a\\u{202e}b\\u{d}\\u{a}");
    }

    #[test]
    fn times_read_as_people_say_them() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(ago(then, then + Duration::from_secs(12)), "12 s ago");
        assert_eq!(ago(then, then - Duration::from_secs(12)), "just now");
        assert_eq!(utc(then), "1970-01-12 13:46:40 UTC");
        assert_eq!(clock(then), "13:46");
    }
}
