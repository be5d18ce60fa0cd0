//! The frame of every page: title, navigation, assets.

use super::assets;

/// Pages that exist, in the order of the navigation: path, name, the key after `g`.
const PAGES: &[(&str, &str, &str)] = &[
    ("/", "Overview", "o"),
    ("/retrievals", "Retrievals", "r"),
    ("/peers", "Peers", "p"),
    ("/topology", "Topology", "t"),
    ("/content", "Content", "c"),
    ("/webgpu", "WebGPU", "w"),
    ("/system", "System", "s"),
];

/// What `base.html` needs.
#[derive(Debug, Clone)]
pub struct Page {
    pub title: String,
    /// The page's place in the navigation.
    pub at: &'static str,
    /// It refreshes itself.
    pub live: bool,
    /// It has drawings that can be zoomed (`static/plots.js`).
    pub plots: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct NavItem {
    pub href: &'static str,
    pub name: &'static str,
    pub key: &'static str,
    pub current: bool,
}

impl Page {
    pub fn new(title: impl Into<String>, at: &'static str) -> Self {
        Self { title: title.into(), at, live: false, plots: false }
    }

    pub fn live(self) -> Self {
        Self { live: true, ..self }
    }

    pub fn plots(self) -> Self {
        Self { plots: true, ..self }
    }

    pub fn nav(&self) -> Vec<NavItem> {
        PAGES.iter().map(|&(href, name, key)| NavItem { href, name, key, current: href == self.at }).collect()
    }

    /// The address of an embedded file, which changes when its bytes do.
    pub fn asset(&self, path: &str) -> String {
        assets::url(path)
    }

    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}
