//! Which part of a directory a request wants to see, and in which order. Pure.

use std::cmp::Ordering;

use http::HeaderMap;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;

use super::format::{self, CodecForm, ResponseFormat};
use super::handler::Ask;
use crate::dag::Entry;

/// Entries on one page.
pub(super) const PAGE: usize = 1000;
/// The most entries that are sorted; larger directories are shown in the order in which they are stored.
pub(super) const SORTABLE: usize = 10_000;
/// The most bytes of names that are held to sort them.
pub(super) const SORTABLE_BYTES: usize = 8 << 20;

/// What the query says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// `?sort=`; `None`: the directory's own order, which is by name where that costs nothing.
    pub(super) sort: Option<Sort>,
    /// `?order=desc`.
    pub(super) descending: bool,
    /// `?page=`, from 1.
    pub(super) page: usize,
    /// `?after=`: the last name of the page before, where pages have no numbers.
    pub(super) after: Option<String>,
    /// `?first=`: the number of the first entry of such a page, for people.
    pub(super) first: u64,
    /// `?format=json`: further pages are asked for alike.
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Name,
    Size,
    Cid,
}

impl View {
    pub(super) fn read(query: Option<&str>) -> Self {
        let mut view = Self { page: 1, first: 1, ..Self::default() };
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*key {
                "sort" => view.sort = Sort::ALL.into_iter().find(|sort| sort.as_str() == value),
                "order" => view.descending = value == "desc",
                "page" => view.page = value.parse().ok().filter(|page| *page > 0).unwrap_or(1),
                "after" => view.after = Some(value.into_owned()).filter(|name| !name.is_empty()),
                "format" => view.json = value == "json",
                "first" => view.first = value.parse().ok().filter(|first| *first > 0).unwrap_or(1),
                _ => {}
            }
        }
        view
    }

    /// The query of another page of the same view.
    pub(super) fn page_href(&self, page: usize) -> String {
        let sort = self.sort.map(|sort| format!("sort={}&", sort.as_str())).unwrap_or_default();
        let order = if self.descending { "order=desc&" } else { "" };
        format!("?{sort}{order}page={page}{}", self.format())
    }

    /// The query of the page after the entry `name`, which begins with entry number `first`.
    pub(super) fn after_href(&self, name: &str, first: u64) -> String {
        format!("?after={}&first={first}{}", utf8_percent_encode(name, NON_ALPHANUMERIC), self.format())
    }

    fn format(&self) -> &'static str {
        if self.json { "&format=json" } else { "" }
    }

    /// The query that sorts by `sort`: the other way round where it is sorted so already.
    pub(super) fn sort_href(&self, sort: Sort, sorted: Option<Sort>) -> String {
        let order = if sorted == Some(sort) && !self.descending { "&order=desc" } else { "" };
        format!("?sort={}{order}", sort.as_str())
    }

    pub(super) fn apply(&self, sort: Sort, entries: &mut [Entry]) {
        entries.sort_by(|a, b| {
            let by = match sort {
                Sort::Name => Ordering::Equal,
                Sort::Size => a.tsize.cmp(&b.tsize),
                Sort::Cid => a.cid.to_string().cmp(&b.cid.to_string()),
            };
            let order = by.then_with(|| a.name.cmp(&b.name));
            if self.descending { order.reverse() } else { order }
        });
    }
}

impl Sort {
    pub(super) const ALL: [Self; 3] = [Self::Name, Self::Cid, Self::Size];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Size => "size",
            Self::Cid => "cid",
        }
    }
}

/// The entries of a directory are wanted as JSON: by the address, or by `Accept` where the address names no format.
pub(super) fn is_json(ask: &Ask) -> bool {
    ask.negotiated.format == ResponseFormat::Codec(CodecForm::Json) || wants_json(&ask.headers)
}

/// `Accept` names JSON, and wants it more than a page.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    let (mut json, mut page) = (0, 0);
    for media in format::media(headers) {
        match &*media.essence {
            "application/json" => json = media.quality,
            "text/html" | "application/xhtml+xml" => page = page.max(media.quality),
            _ => {}
        }
    }
    json > page
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    fn entry(name: &str, size: u64) -> Entry {
        Entry { name: name.to_owned(), cid: "bafkqaaa".parse().unwrap(), tsize: Some(size) }
    }

    #[test]
    fn a_query_is_read_and_written_back() {
        let view = View::read(Some("sort=size&order=desc&page=3&format=x"));
        assert_eq!((view.sort, view.descending, view.page), (Some(Sort::Size), true, 3));
        assert_eq!(view.page_href(4), "?sort=size&order=desc&page=4");
        assert_eq!(View::read(Some(&view.page_href(4)[1..])), View { page: 4, ..view });
        assert_eq!(View::read(Some("page=0&sort=x&first=-1")), View::read(None));
        let href = View::default().after_href("a&b=\u{202e}\"ą#", 1001);
        assert_eq!(View::read(Some(&href[1..])).after.as_deref(), Some("a&b=\u{202e}\"ą#"));
        assert!(href.is_ascii() && !href.contains(['"', '#']));
    }

    #[test]
    fn entries_are_sorted_both_ways_and_ties_by_name() {
        let sorted = |query: &str| {
            let view = View::read(Some(query));
            let mut entries = vec![entry("b", 1), entry("c", 0), entry("a", 1)];
            view.apply(view.sort.unwrap(), &mut entries);
            entries.into_iter().map(|entry| entry.name).collect::<String>()
        };
        assert_eq!(sorted("sort=name"), "abc");
        assert_eq!(sorted("sort=name&order=desc"), "cba");
        assert_eq!(sorted("sort=size"), "cab");
        assert_eq!(sorted("sort=size&order=desc"), "bac");
    }

    #[test]
    fn json_is_for_those_who_want_it_most() {
        for (accept, expected) in [
            ("application/json", true),
            ("application/json, text/html;q=0.9", true),
            ("text/html, application/json", false),
            ("text/html;q=0.5, application/json;q=0.4", false),
            ("*/*", false),
            ("application/json;q=0", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(wants_json(&headers), expected, "{accept}");
        }
        assert!(!wants_json(&HeaderMap::new()));
    }
}
