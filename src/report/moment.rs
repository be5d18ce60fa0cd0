//! How people name a moment: a date, or how long ago.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use thiserror::Error;

/// A moment, absolute or before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    At(SystemTime),
    Ago(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{given:?} is no moment: write 2026-11-23T14:00:00Z, 2026-11-23, or how long ago as 90s, 24h or 7d")]
pub struct MomentError {
    given: String,
}

impl Moment {
    pub fn from(self, now: SystemTime) -> SystemTime {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let trimmed = text.trim();
        let midnight = || format!("{trimmed}T00:00:00Z");
        // A form field that takes a local time leaves the seconds and the zone out: it is taken as UTC.
        let minutes = || format!("{trimmed}:00Z");
        let parsed = humantime::parse_rfc3339(trimmed)
            .or_else(|_| humantime::parse_rfc3339(&midnight()))
            .or_else(|_| humantime::parse_rfc3339(&minutes()));
        if let Ok(at) = parsed {
            return Ok(Self::At(at));
        }
        let ago = humantime::parse_duration(trimmed);
        ago.map(Self::Ago).map_err(|_| MomentError { given: text.chars().take(64).collect() })
    }
}

impl std::fmt::Display for Moment {
    /// As [`Moment::from_str`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(at) => humantime::format_rfc3339_micros(*at).fmt(f),
            Self::Ago(ago) => humantime::format_duration(*ago).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_times_and_spans_are_understood_and_nonsense_is_not() {
        let at = |seconds| Moment::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!("1970-01-02".parse(), Ok(at(86_400)));
        assert_eq!("1970-01-01T00:01:00Z".parse(), Ok(at(60)));
        assert_eq!("1970-01-01T00:01".parse(), Ok(at(60)));
        assert_eq!("7d".parse(), Ok(Moment::Ago(Duration::from_secs(7 * 86_400))));
        for text in ["", "yesterday", "1970-13-01", "-5", "99999999999999999999d"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
        assert_eq!(Moment::Ago(Duration::MAX).from(SystemTime::now()), SystemTime::UNIX_EPOCH);
    }
}
