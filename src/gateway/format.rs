//! Which form of the content a request asks for.
//!
//! Sources: path-gateway and trustless-gateway specifications; IPIP-523 (`?format=` wins over `Accept`).

use std::borrow::Cow;
use std::cmp::Reverse;

use http::HeaderMap;
use http::header::ACCEPT;

use crate::ipld::codec;

/// `application/x-tar`.
pub const TAR: &str = "application/x-tar";
/// `application/zip`.
pub const ZIP: &str = "application/zip";
/// `application/vnd.ipfs.ipns-record`.
pub const IPNS_RECORD: &str = "application/vnd.ipfs.ipns-record";
/// `application/vnd.ipld.raw`.
pub const RAW: &str = "application/vnd.ipld.raw";
/// `application/vnd.ipld.car`.
pub const CAR: &str = "application/vnd.ipld.car";

/// The form of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFormat {
    /// Files as their bytes, directories as a page.
    Deserialized,
    /// The block.
    Raw,
    /// The blocks of a graph.
    Car(CarOptions),
    /// Files and directories as a TAR.
    Tar,
    /// The same as a ZIP.
    Zip,
    /// A block of structured data, as what its codec is (IPIP-524: nothing is converted). Files that are asked for as plain
    /// JSON or CBOR are files.
    Codec(CodecForm),
    /// The signed record behind a name.
    IpnsRecord,
}

/// A codec as a form of response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecForm {
    Json,
    Cbor,
    DagJson,
    DagCbor,
}

impl CodecForm {
    /// The form that a block of that codec has when nothing else is asked for.
    pub fn of_codec(code: u64) -> Option<Self> {
        match code {
            codec::JSON => Some(Self::Json),
            codec::CBOR => Some(Self::Cbor),
            codec::DAG_JSON => Some(Self::DagJson),
            codec::DAG_CBOR => Some(Self::DagCbor),
            _ => None,
        }
    }

    /// True when a block of that codec can be sent so as it is: DAG-JSON is JSON and DAG-CBOR is CBOR.
    pub fn fits(self, code: u64) -> bool {
        match self {
            Self::Json => matches!(code, codec::JSON | codec::DAG_JSON),
            Self::Cbor => matches!(code, codec::CBOR | codec::DAG_CBOR),
            Self::DagJson => code == codec::DAG_JSON,
            Self::DagCbor => code == codec::DAG_CBOR,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cbor => "cbor",
            Self::DagJson => "dag-json",
            Self::DagCbor => "dag-cbor",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
            Self::DagJson => "application/vnd.ipld.dag-json",
            Self::DagCbor => "application/vnd.ipld.dag-cbor",
        }
    }

    /// The ending of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Json | Self::DagJson => "json",
            Self::Cbor | Self::DagCbor => "cbor",
        }
    }
}

/// What a request says about the CAR it wants (IPIP-402, IPIP-412).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarOptions {
    pub scope: Scope,
    /// Bytes of the file at the end of the path, both ends included; negative numbers count from its end.
    pub bytes: Option<(i64, Option<i64>)>,
    pub duplicates: bool,
}

/// `dag-scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Block,
    Entity,
    All,
}

/// A format, and whether `Accept` chose it (the response then names its own address in `Content-Location`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    pub format: ResponseFormat,
    pub by_accept: bool,
    /// A page is wanted where the content itself is not one: `Accept` prefers `text/html`.
    pub html: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// HTTP 406.
    #[error(
        "format {0:?} is not served here; there are raw, car, tar, zip, json, cbor, dag-json, dag-cbor and ipns-record"
    )]
    Unknown(String),
    /// HTTP 406.
    #[error("CAR version {0:?} is not served here; there is version 1")]
    CarVersion(String),
    /// HTTP 400.
    #[error("{parameter}={value:?} is not understood")]
    Parameter { parameter: &'static str, value: String },
}

impl ResponseFormat {
    /// The value of the metric label `format`, and of `?format=`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deserialized => "deserialized",
            Self::Raw => "raw",
            Self::Car(_) => "car",
            Self::Tar => "tar",
            Self::Zip => "zip",
            Self::Codec(form) => form.name(),
            Self::IpnsRecord => "ipns-record",
        }
    }

    /// Chooses by `?format=`, then by `Accept`; `query` is the raw query string.
    pub fn negotiate(query: Option<&str>, headers: &HeaderMap) -> Result<Negotiated, FormatError> {
        let query = Query::read(query);
        if let Some(format) = query.format {
            let format = match &*format {
                "raw" => Self::Raw,
                // Parameters of an Accept that names the same type still count where the query is silent.
                "car" => {
                    let accepted = first(media(headers).filter(|media| media.essence == CAR));
                    Self::Car(CarOptions::read(&query.car, accepted.as_ref())?)
                }
                "tar" => Self::Tar,
                "zip" => Self::Zip,
                "json" => Self::Codec(CodecForm::Json),
                "cbor" => Self::Codec(CodecForm::Cbor),
                "dag-json" => Self::Codec(CodecForm::DagJson),
                "dag-cbor" => Self::Codec(CodecForm::DagCbor),
                "ipns-record" => Self::IpnsRecord,
                _ => return Err(FormatError::Unknown(format)),
            };
            return Ok(Negotiated { format, by_accept: false, html: false });
        }
        let Some(media) = first(media(headers).filter(Media::is_known)) else {
            return match first(media(headers)) {
                Some(unknown) => Err(FormatError::Unknown(unknown.essence.into_owned())),
                None => Ok(Negotiated { format: Self::Deserialized, by_accept: false, html: false }),
            };
        };
        let format = match &*media.essence {
            RAW => Self::Raw,
            CAR => Self::Car(CarOptions::read(&query.car, Some(&media))?),
            TAR => Self::Tar,
            ZIP => Self::Zip,
            IPNS_RECORD => Self::IpnsRecord,
            "application/json" => Self::Codec(CodecForm::Json),
            "application/cbor" => Self::Codec(CodecForm::Cbor),
            "application/vnd.ipld.dag-json" => Self::Codec(CodecForm::DagJson),
            "application/vnd.ipld.dag-cbor" => Self::Codec(CodecForm::DagCbor),
            other => {
                let html = matches!(other, "text/html" | "application/xhtml+xml");
                return Ok(Negotiated { format: Self::Deserialized, by_accept: false, html });
            }
        };
        Ok(Negotiated { format, by_accept: true, html: false })
    }
}

impl CarOptions {
    fn read(query: &CarQuery, media: Option<&Media<'_>>) -> Result<Self, FormatError> {
        // The address wins over the header, for each parameter by itself.
        let pick = |query: &Option<String>, name: &str| {
            query.clone().or_else(|| media.and_then(|media| media.parameter(name)).map(str::to_owned))
        };
        if let Some(version) = pick(&query.version, "version").filter(|version| version != "1") {
            return Err(FormatError::CarVersion(version));
        }
        match pick(&query.order, "order").as_deref() {
            // Depth first is one of the orders that "unknown" allows.
            None | Some("dfs" | "unk") => {}
            Some(other) => return Err(parameter("car-order", other)),
        }
        let duplicates = match pick(&query.dups, "dups").as_deref() {
            None | Some("n") => false,
            Some("y") => true,
            Some(other) => return Err(parameter("car-dups", other)),
        };
        let bytes = query.bytes.as_deref().map(entity_bytes).transpose()?;
        let scope = match query.scope.as_deref() {
            None if bytes.is_some() => Scope::Entity,
            None | Some("all") => Scope::All,
            Some("entity") => Scope::Entity,
            Some("block") => Scope::Block,
            Some(other) => return Err(parameter("dag-scope", other)),
        };
        Ok(Self { scope, bytes: bytes.filter(|_| scope == Scope::Entity), duplicates })
    }

    /// The `Content-Type` with every parameter spelt out.
    pub fn content_type(&self) -> String {
        format!("{CAR}; version=1; order=dfs; dups={}", if self.duplicates { "y" } else { "n" })
    }
}

fn parameter(parameter: &'static str, value: &str) -> FormatError {
    FormatError::Parameter { parameter, value: value.to_owned() }
}

fn entity_bytes(text: &str) -> Result<(i64, Option<i64>), FormatError> {
    let error = || parameter("entity-bytes", text);
    let (from, to) = text.split_once(':').ok_or_else(error)?;
    let from = from.parse().map_err(|_| error())?;
    let to = if to == "*" { None } else { Some(to.parse().map_err(|_| error())?) };
    if let Some(to) = to
        && (from >= 0) == (to >= 0)
        && to < from
    {
        return Err(error());
    }
    Ok((from, to))
}

#[derive(Default)]
struct Query {
    format: Option<String>,
    car: CarQuery,
}

#[derive(Default)]
struct CarQuery {
    version: Option<String>,
    order: Option<String>,
    dups: Option<String>,
    scope: Option<String>,
    bytes: Option<String>,
}

impl Query {
    fn read(query: Option<&str>) -> Self {
        let mut read = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let slot = match &*key {
                "format" => &mut read.format,
                "car-version" => &mut read.car.version,
                "car-order" => &mut read.car.order,
                "car-dups" => &mut read.car.dups,
                "dag-scope" => &mut read.car.scope,
                "entity-bytes" => &mut read.car.bytes,
                _ => continue,
            };
            if slot.is_none() && !value.is_empty() {
                *slot = Some(value.into_owned());
            }
        }
        read
    }
}

/// A media range of `Accept`.
pub(super) struct Media<'a> {
    /// In lower case.
    pub(super) essence: Cow<'a, str>,
    parameters: &'a str,
    /// Thousandths; never 0.
    pub(super) quality: u16,
}

impl<'a> Media<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim();
        if !essence.contains('/') {
            return None;
        }
        let essence = match essence.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(essence.to_ascii_lowercase()),
            false => Cow::Borrowed(essence),
        };
        let mut media = Self { essence, parameters, quality: 1000 };
        if let Some(weight) = media.parameter("q") {
            // A weight that cannot be read counts as 1 (RFC 9110 §12.4.2 gives no rule).
            let weight = weight.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
            media.quality = (weight * 1000.0) as u16;
        }
        (media.quality > 0).then_some(media)
    }

    fn is_ipfs(&self) -> bool {
        self.essence.starts_with("application/vnd.ipld.") || self.essence.starts_with("application/vnd.ipfs.")
    }

    /// Not of IPFS, or one of those that are served here.
    fn is_known(&self) -> bool {
        let served = [RAW, CAR, IPNS_RECORD, CodecForm::DagJson.media_type(), CodecForm::DagCbor.media_type()];
        !self.is_ipfs() || served.contains(&&*self.essence)
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.parameters.split(';').filter_map(|piece| piece.split_once('='));
        let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"'))
    }
}

/// The media ranges of `Accept`, as they are written; those that weigh nothing are left out.
pub(super) fn media(headers: &HeaderMap) -> impl Iterator<Item = Media<'_>> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(Media::read)
}

/// The most wanted; among equals IPFS's own before the rest, then the first.
fn first<'a>(media: impl Iterator<Item = Media<'a>>) -> Option<Media<'a>> {
    // Of equal keys, `min_by_key` gives the first.
    media.min_by_key(|media| (Reverse(media.quality), !media.is_ipfs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str, accept: &str) -> Result<ResponseFormat, FormatError> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        ResponseFormat::negotiate(Some(query), &headers).map(|negotiated| negotiated.format)
    }

    fn car(query: &str, accept: &str) -> CarOptions {
        match ask(query, accept) {
            Ok(ResponseFormat::Car(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_address_wins_over_the_header() {
        assert_eq!(ask("format=raw", CAR), Ok(ResponseFormat::Raw));
        assert!(car("format=car&car-dups=n", "application/vnd.ipld.car;dups=y") == car("format=car", ""));
        assert!(car("format=car", "application/vnd.ipld.car; dups=y").duplicates);
        assert!(car("", "application/vnd.ipld.car; q=0.5; order=dfs; DUPS=\"y\"").duplicates);
    }

    #[test]
    fn accept_is_weighed() {
        assert_eq!(ask("", "text/html, application/vnd.ipld.raw;q=0.5"), Ok(ResponseFormat::Deserialized));
        assert_eq!(ask("", "text/html, application/vnd.ipld.raw"), Ok(ResponseFormat::Raw));
        assert_eq!(ask("", "application/vnd.ipld.raw;q=0"), Ok(ResponseFormat::Deserialized));
        assert_eq!(ask("", "text/html,*/*;q=0.8"), Ok(ResponseFormat::Deserialized));
        assert_eq!(ask("", "text/html; Q=0.5 , Application/VND.ipld.Raw ; q=0.6"), Ok(ResponseFormat::Raw));
        assert_eq!(ask("", "raw, application/vnd.ipld.raw; q=nonsense, text/html; q=0.9"), Ok(ResponseFormat::Raw));
    }

    #[test]
    fn every_form_is_chosen_by_address_and_by_header() {
        use CodecForm::{Cbor, DagCbor, DagJson, Json};
        for (name, media, expected) in [
            ("raw", RAW, ResponseFormat::Raw),
            ("tar", TAR, ResponseFormat::Tar),
            ("zip", ZIP, ResponseFormat::Zip),
            ("ipns-record", IPNS_RECORD, ResponseFormat::IpnsRecord),
            ("json", Json.media_type(), ResponseFormat::Codec(Json)),
            ("cbor", Cbor.media_type(), ResponseFormat::Codec(Cbor)),
            ("dag-json", DagJson.media_type(), ResponseFormat::Codec(DagJson)),
            ("dag-cbor", DagCbor.media_type(), ResponseFormat::Codec(DagCbor)),
        ] {
            assert_eq!(ask(&format!("format={name}"), CAR), Ok(expected), "{name}");
            assert_eq!(ask("", media), Ok(expected), "{media}");
            assert_eq!(
                ask("", &format!("text/html;q=0.9, {media};q=0.8")),
                Ok(ResponseFormat::Deserialized),
                "{media}"
            );
            assert_eq!(expected.name(), name);
        }
    }

    #[test]
    fn what_is_not_served_is_named() {
        assert_eq!(ask("format=rar", ""), Err(FormatError::Unknown("rar".into())));
        let unknown = "application/vnd.ipld.car-2";
        assert_eq!(ask("", unknown), Err(FormatError::Unknown(unknown.into())));
        assert_eq!(ask("", &format!("{unknown}, application/vnd.ipld.raw;q=0.1")), Ok(ResponseFormat::Raw));
        assert!(matches!(ask("format=car&car-version=2", ""), Err(FormatError::CarVersion(_))));
        assert!(matches!(ask("format=car&dag-scope=half", ""), Err(FormatError::Parameter { .. })));
    }

    #[test]
    fn entity_bytes_imply_the_entity() {
        let options = car("format=car&entity-bytes=-5:*", "");
        assert_eq!((options.scope, options.bytes), (Scope::Entity, Some((-5, None))));
        assert_eq!(car("format=car&entity-bytes=512:-256", "").bytes, Some((512, Some(-256))));
        assert_eq!(car("format=car&dag-scope=block&entity-bytes=0:1", "").bytes, None);
        assert!(ask("format=car&entity-bytes=9:1", "").is_err());
    }
}
