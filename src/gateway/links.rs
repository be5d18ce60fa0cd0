//! What a page needs besides itself, asked for while the browser still reads the page (RETRIEVAL.md T5). Off unless the
//! operator wants it: a page may name what nobody is going to look at.
//!
//! Only what the page's own content has: style sheets, scripts, pictures and fonts by relative address. Nothing here is
//! urgent, and all of it is bounded.

use std::collections::BTreeSet;

use futures::StreamExt;
use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};
use url::Url;

use super::handler::Visit;
use crate::dag::{self, FileReader, NodeKind};
use crate::denylist::Judge;
use crate::ipld::path::ContentPath;
use crate::record::Policy;
use crate::retriever::Session;

/// Bytes of a page that are looked at: browsers look as far ahead for what they are to load first.
const MAX_HTML: usize = 64 << 10;
/// Links of one page that are followed.
const MAX_LINKS: usize = 64;
/// and so many of them at once.
const AT_ONCE: usize = 16;
/// The largest file that is read ahead. Films are streamed when somebody looks at them.
const MAX_FILE: u64 = 4 << 20;
/// Any origin: what leads away from it is not followed.
const ORIGIN: &str = "http://site.invalid";

/// What `<link rel>` has to say for its target to be loaded with the page.
const LOADED: [&[u8]; 5] = [b"stylesheet", b"icon", b"preload", b"modulepreload", b"manifest"];

impl Visit<'_> {
    /// `html` is the beginning of the page that the request is for.
    pub(super) fn reads_page(&self, html: &[u8]) {
        let (gateway, ask) = (self.gateway, self.ask);
        let asked = gateway.state.config.prefetch_links
            && self.session.policy() == Policy::Optimized
            && self.session.is_networked();
        if !asked {
            return;
        }
        let home = ask.place.address(&ContentPath { segments: Vec::new(), trailing_slash: true, ..ask.path.clone() });
        let targets: Vec<(Vec<String>, Judge)> = assets(html, &ask.place.address(&ask.path), &home)
            .into_iter()
            .map(|below| ask.site().iter().cloned().chain(below).collect::<Vec<String>>())
            .map(|segments| (segments.clone(), ask.judge(gateway, &segments)))
            .filter(|(_, judge)| judge.verdict().is_ok())
            .collect();
        if targets.is_empty() {
            return;
        }
        gateway.counts.links.inc_by(targets.len() as u64);
        self.retrieve_ahead(ask.path.to_string(), move |session| async move {
            let each = futures::stream::iter(targets);
            each.for_each_concurrent(AT_ONCE, |(segments, judge)| load(&session, segments, judge)).await;
        });
    }
}

/// Brings a file here. What cannot be had is the browser's to find out.
async fn load(session: &Session, segments: Vec<String>, mut judge: Judge) {
    let Ok(way) = dag::resolve_from(session, *session.root(), &segments).await else { return };
    judge.passed(&way.roots);
    if judge.verdict().is_err() {
        return;
    }
    let Ok(resolved) = way.fetch(session).await else { return };
    if !matches!(resolved.kind, NodeKind::File { size } if size <= MAX_FILE) {
        return;
    }
    let Ok(mut reader) = FileReader::whole(session.clone(), &resolved.block) else { return };
    while let Some(Ok(_)) = reader.next().await {}
}

/// What a page at `page` loads of what is below `home`: the names that lead there from `home`. Both are paths of URLs.
fn assets(html: &[u8], page: &str, home: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let Some(mut base) = Url::parse(ORIGIN).ok().and_then(|origin| origin.join(page).ok()) else { return found };
    let origin = base.origin();
    // Scripts and styles are text, whatever stands in them.
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(&html[..html.len().min(MAX_HTML)], emitter) {
        let Ok(Token::StartTag(tag)) = token else { continue };
        if *tag.name == *b"base" {
            // Only the first counts, and what it names may be another site.
            let Some(href) = attribute(&tag, b"href").and_then(|href| base.join(href).ok()) else { continue };
            if href.origin() != origin {
                return found;
            }
            base = href;
            continue;
        }
        let Some(url) = loads(&tag).and_then(|address| base.join(address.trim()).ok()) else { continue };
        if url.origin() != origin || found.len() >= MAX_LINKS {
            continue;
        }
        let Some(below) = url.path().strip_prefix(home).filter(|below| !below.is_empty()) else { continue };
        // Any root will do: the parser takes the names apart as for every request.
        if let Ok(path) = ContentPath::parse(&format!("/ipfs/bafkqaaa/{below}")) {
            found.insert(path.segments);
        }
    }
    found
}

/// The address of what a browser loads because of this tag.
fn loads(tag: &StartTag<()>) -> Option<&str> {
    match &**tag.name {
        b"script" | b"img" | b"source" | b"input" | b"embed" => attribute(tag, b"src"),
        b"link" => {
            let rel = attribute(tag, b"rel")?;
            let is_loaded = |word: &str| LOADED.iter().any(|known| word.as_bytes().eq_ignore_ascii_case(known));
            attribute(tag, b"href").filter(|_| rel.split_ascii_whitespace().any(is_loaded))
        }
        b"video" => attribute(tag, b"poster"),
        b"object" => attribute(tag, b"data"),
        _ => None,
    }
}

fn attribute<'a>(tag: &'a StartTag<()>, name: &[u8]) -> Option<&'a str> {
    std::str::from_utf8(tag.attributes.get(name)?).ok().filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(html: &str, page: &str, home: &str) -> Vec<String> {
        assets(html.as_bytes(), page, home).into_iter().map(|segments| segments.join("/")).collect()
    }

    const PAGE: &str = r#"<!doctype html><html><head>
        <link rel="stylesheet" href="css/a.css?v=1#x"><link REL='shortcut ICON' href=/ipfs/ROOT/icon.png>
        <link rel=canonical href=elsewhere.html><link rel="alternate stylesheet" href='../b%20b.css'>
        <script type=module src="./js/../app.js"></script><script>"<img src=no.png>"</script>
        <!-- <img src=comment.png> --></head>
        <body><a href=next.html>next</a><img src="a&amp;b.png"><img src=""><img alt=x>
        <picture><source src=c.webp></picture><video poster=p.jpg src=film.mp4></video>
        <img src=//example.org/x.png><img src=https://example.org/y.png><img src=data:image/png;base64,AA==>
        <img src=/ipfs/OTHER/z.png><img src=../../../../up.png><img src="%ff.png">"#;

    #[test]
    fn what_a_page_loads_of_its_own_content_is_found() {
        let found = of(PAGE, "/ipfs/ROOT/docs/", "/ipfs/ROOT/");
        let expected =
            ["b b.css", "docs/a&b.png", "docs/app.js", "docs/c.webp", "docs/css/a.css", "docs/p.jpg", "icon.png"];
        assert_eq!(found, expected);
    }

    #[test]
    fn on_an_origin_of_its_own_the_site_is_all_there_is() {
        let html = "<img src=/a/b.png><img src=../../c.png><img src=https://site.invalid:1/d.png>";
        assert_eq!(of(html, "/docs/index.html", "/"), ["a/b.png", "c.png"]);
    }

    #[test]
    fn a_base_counts_and_one_that_leads_away_ends_it() {
        assert_eq!(of("<base href=/x/><img src=a.png>", "/docs/", "/"), ["x/a.png"]);
        assert!(of("<base href=https://example.org/><img src=a.png>", "/docs/", "/").is_empty());
    }

    #[test]
    fn pages_without_end_are_bounded() {
        let many: String = (0..1_000).map(|n| format!("<img src={n}.png>")).collect();
        assert_eq!(of(&many, "/", "/").len(), MAX_LINKS);
        let late = format!("{}<img src=late.png>", " ".repeat(MAX_HTML));
        assert!(of(&late, "/", "/").is_empty());
        assert!(of("<img src=\"unfinished", "/", "/").is_empty());
        assert!(of("\u{0}<\u{0}img src=\u{0}>", "/", "/").len() <= 1);
    }
}
