//! One question for every way in: is what stands here refused, by any of the paths that lead to it?

use super::{Denied, Denylists, Rules};
use crate::ipld::Cid;
use crate::ipld::path::{ContentPath, Namespace};

/// CIDs on the way whose own path rules count too. Deeper ones are passed over, so that a hostile graph costs no more;
/// the paths that were asked for always count.
const MAX_ENTERED: usize = 64;

/// A place in content, by every path that is known to lead to it: what was asked for, each name on the way, the content
/// path at the end, and those that start at a directory in between.
#[derive(Debug, Clone)]
pub struct Judge {
    lists: Denylists,
    ways: Vec<Way>,
    /// Names from the start to the place.
    names: Vec<String>,
}

/// A path to the place.
#[derive(Debug, Clone)]
struct Way {
    root: Namespace,
    /// Between the root and the names.
    between: Vec<String>,
    /// So many of the names lie above the root.
    above: usize,
}

/// What is refused, and by which path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is not served here: a denylist names it")]
pub struct Refused {
    pub path: ContentPath,
    pub denied: Denied,
}

impl Judge {
    /// The place that every one of `starts` leads to; the last one is the content path.
    pub fn new(lists: &Denylists, starts: impl IntoIterator<Item = ContentPath>) -> Self {
        let way = |path: ContentPath| Way { root: path.namespace, between: path.segments, above: 0 };
        Self { lists: lists.clone(), ways: starts.into_iter().map(way).collect(), names: Vec::new() }
    }

    /// Goes on to what `name` leads to.
    pub fn enter(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    /// The place has this CID: paths may start here too.
    pub fn is_cid(&mut self, cid: &Cid) {
        self.start_at(cid, &[], self.names.len());
    }

    /// Goes back to where the last name was entered.
    pub fn leave(&mut self) {
        self.names.pop();
        self.ways.retain(|way| way.above <= self.names.len());
    }

    /// The CIDs that a resolution met: the root of the content path, then that of each segment.
    pub fn passed(&mut self, roots: &[Cid]) {
        let Some(between) = self.ways.last().map(|way| way.between.clone()) else { return };
        // Within structured data a block may take several segments: which belong to it is not known here.
        if roots.len() != between.len() + self.names.len() + 1 {
            return;
        }
        for (at, cid) in roots.iter().enumerate().skip(1) {
            self.start_at(cid, between.get(at..).unwrap_or_default(), at.saturating_sub(between.len()));
        }
    }

    fn start_at(&mut self, cid: &Cid, between: &[String], above: usize) {
        let entered = self.ways.iter().filter(|way| way.above > 0).count();
        if entered < MAX_ENTERED && self.lists.rules().has_paths() {
            self.ways.push(Way { root: Namespace::Ipfs(*cid), between: between.to_vec(), above });
        }
    }

    /// Whether any rule may be about a path below a CID: without one, names need not be remembered.
    pub fn has_paths(&self) -> bool {
        self.lists.rules().has_paths()
    }

    /// Whether the place is refused.
    pub fn verdict(&self) -> Result<(), Refused> {
        self.ask(None)
    }

    /// Whether what `name` leads to is refused.
    pub fn verdict_below(&self, name: &str) -> Result<(), Refused> {
        self.ask(Some(name))
    }

    fn ask(&self, name: Option<&str>) -> Result<(), Refused> {
        let rules = self.lists.rules();
        if rules.is_empty() {
            return Ok(());
        }
        self.ways.iter().find_map(|way| way.refused(&rules, &self.names, name)).map_or(Ok(()), Err)
    }
}

impl Way {
    fn refused(&self, rules: &Rules, names: &[String], last: Option<&str>) -> Option<Refused> {
        let mut segments = self.between.clone();
        segments.extend_from_slice(names.get(self.above..)?);
        segments.extend(last.map(str::to_owned));
        let path = ContentPath { namespace: self.root.clone(), segments, trailing_slash: false };
        rules.path(&path).map(|denied| Refused { path, denied })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denylist::tests::rules;

    const ROOT: &str = "bafybeihvvulpp4evxj7x7armbqcyg6uezzuig6jp3lktpbovlqfkuqeuoq";
    const DIR: &str = "bafybeidjwik6im54nrpfg7osdvmx7zojl5oaxqel5cmsz46iuelwf5acja";
    const FILE: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

    /// At `/ipns/alias.example/dir`, which leads through `/ipns/bad.example/x` to `/ipfs/ROOT/x/dir`, of the CIDs given.
    fn judge(lines: &str) -> Judge {
        let lists = Denylists::default();
        lists.replace(rules(&lines.replace("ROOT", ROOT).replace("DIR", DIR)));
        let start = |text: &str| ContentPath::parse(text).unwrap();
        let content = start(&format!("/ipfs/{ROOT}/x"));
        let mut judge = Judge::new(&lists, [start("/ipns/alias.example"), start("/ipns/bad.example/x"), content]);
        judge.enter("dir");
        judge.passed(&[ROOT, FILE, DIR].map(|cid| cid.parse().unwrap()));
        judge
    }

    #[test]
    fn a_place_is_refused_by_any_path_that_leads_to_it() {
        for (rule, here, below) in [
            ("/ipfs/FILE", false, false),
            ("/ipns/alias.example", true, true),
            ("/ipns/bad.example", true, true),
            ("/ipns/bad.example/x/dir", true, false),
            ("/ipns/bad.example/x/dir/*", false, true),
            ("/ipns/bad.example/dir*", false, false),
            ("/ipfs/ROOT/x/dir", true, false),
            ("/ipfs/ROOT/x/dir/index.html", false, true),
            ("/ipfs/ROOT/dir*", false, false),
            ("/ipfs/DIR/index.html", false, true),
            ("/ipfs/DIR/dir*", false, false),
            ("/ipns/alias.example\n!/ipns/alias.example", false, false),
        ] {
            let judge = judge(rule);
            assert_eq!((judge.verdict().is_err(), judge.verdict_below("index.html").is_err()), (here, below), "{rule}");
        }
        let refused = judge("/ipns/bad.example/x/d* status=451").verdict().unwrap_err();
        assert_eq!((refused.path.to_string().as_str(), refused.denied.legal), ("/ipns/bad.example/x/dir", true));
    }

    #[test]
    fn what_was_entered_is_left_again_and_paths_start_at_what_is_met() {
        let mut judge = judge("/ipfs/DIR/a/b\n/ipfs/ROOT/c");
        judge.enter("a");
        assert!(judge.verdict().is_ok() && judge.verdict_below("b").is_err());
        judge.is_cid(&ROOT.parse().unwrap());
        assert!(judge.verdict_below("c").is_err());
        judge.leave();
        assert!(judge.verdict_below("c").is_ok() && judge.verdict_below("b").is_ok());
        judge.enter("a");
        assert!(judge.verdict_below("b").is_err() && judge.verdict_below("c").is_ok());
    }

    #[test]
    fn a_hostile_depth_costs_no_more_than_the_bound() {
        let mut judge = judge("/ipfs/DIR/none");
        for _ in 0..2 * MAX_ENTERED {
            judge.enter("a");
            judge.is_cid(&DIR.parse().unwrap());
        }
        assert!(judge.ways.len() <= MAX_ENTERED + 5);
    }
}
