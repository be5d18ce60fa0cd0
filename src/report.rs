//! L4b: reports over a window of the metrics database (DATA.md §4).
//!
//! [`build`] reads the database once and makes a [`Report`]: sections of tables, figures and notes. Four pure renderers
//! write it as Markdown, self-contained HTML, JSON or CSV; the numbers are formatted once, in the cells, so that they
//! are the same everywhere. A figure is drawn from the cells of a table, never from numbers of its own.

mod build;
mod chart;
mod csv;
mod html;
mod json;
mod markdown;
mod moment;
mod pairs;
mod sections;
mod table;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::build::{build, window};
pub use self::html::{STYLE_SHEET, SectionView, views};
pub use self::moment::{Moment, MomentError};
pub use self::pairs::{SCENARIOS, Scenario};
pub use self::table::{Cell, Chart, Column, Figure, Report, Section, Series, Table};

/// The longest text that names a run, in bytes.
pub const MAX_RUN_BYTES: usize = 128;

/// Declares a closed set with one spelling for the command line, the API and file names.
macro_rules! names {
    ($(#[$meta:meta])* $name:ident, $error:ident, $what:literal { $($(#[$vmeta:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
        #[derive(Debug, Clone, PartialEq, Eq, Error)]
        #[error("{given:?} is no {what}; there are {}", expected.join(", "), what = $what)]
        pub struct $error { pub given: String, pub expected: &'static [&'static str] }
        impl FromStr for $name {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, $error> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err($error { given: text.chars().take(64).collect(), expected: &[$($text),+] }) }
            }
        }
    };
}

names! {
    /// What a report is about.
    ReportType, UnknownType, "report" {
        /// Standard against optimised, by size class, provider count and scenario.
        Ipfs => "ipfs",
        /// The network around this node.
        P2p => "p2p",
        /// The WebGPU lab.
        WebGpu => "webgpu",
        /// One kind of work on several machines.
        CrossPlatform => "cross-platform",
        /// The six scenarios of the benchmark.
        Benchmark => "benchmark",
        /// Every claim of the manual with its last result.
        Verification => "verification",
    }
}

names! {
    /// How a report is written.
    Format, UnknownFormat, "format" { Markdown => "md", Html => "html", Json => "json", Csv => "csv" }
}

impl ReportType {
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ipfs => "IPFS acceleration",
            Self::P2p => "Peer-to-peer network",
            Self::WebGpu => "WebGPU lab",
            Self::CrossPlatform => "Cross-platform performance",
            Self::Benchmark => "Benchmark of the six scenarios",
            Self::Verification => "Verification of the manual's claims",
        }
    }

    /// Live traffic is told of lately; results of tools and of the lab are rare, and all of them are told.
    pub const fn default_days(self) -> Option<u64> {
        match self {
            Self::Ipfs | Self::P2p => Some(7),
            Self::WebGpu | Self::CrossPlatform | Self::Benchmark | Self::Verification => None,
        }
    }
}

impl Format {
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Markdown => "text/markdown; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// Writes a report. Pure: the same report gives the same bytes.
pub fn render(report: &Report, format: Format) -> String {
    match format {
        Format::Markdown => markdown::render(report),
        Format::Html => html::render(report),
        Format::Json => json::render(report),
        Format::Csv => csv::render(report),
    }
}

#[cfg(test)]
mod render_tests;
