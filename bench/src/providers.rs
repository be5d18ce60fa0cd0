//! Who has the contents.

use crate::scenario::Scenario;

/// Which programs the contents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Providers {
    Kubo,
    /// Over libp2p: Bitswap, and CARs where one is alone.
    Tidegate,
    /// Tidegate's gateway as a provider over HTTP; contenders that cannot ask one do not take part.
    TidegateHttp,
    /// nginx with raw blocks and CARs as files, over HTTP/1.1; the same contenders.
    Nginx,
}

impl Providers {
    pub fn over_http(self) -> bool {
        matches!(self, Self::TidegateHttp | Self::Nginx)
    }

    /// Why a scenario is not measured with them; `None`: it is.
    pub fn refusal(self, scenario: Scenario) -> Option<&'static str> {
        match (self, scenario) {
            (Self::Nginx, Scenario::Multi) => Some("a file server has one CAR of a folder, whatever part is asked for"),
            (Self::Nginx, Scenario::Cold) => Some("the router names providers of Bitswap alone"),
            (Self::Nginx, Scenario::Robust) => Some("the bad peers and the bounds are those of Bitswap"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn nginx_serves_whole_files_and_the_others_every_scenario() {
        let refused = |providers: Providers| -> Vec<&str> {
            let all = Scenario::value_variants().iter().filter(|scenario| providers.refusal(**scenario).is_some());
            all.map(|scenario| scenario.as_str()).collect()
        };
        assert_eq!(refused(Providers::Nginx), ["multi", "cold", "robust"]);
        assert!([Providers::Kubo, Providers::Tidegate, Providers::TidegateHttp].map(refused).iter().all(Vec::is_empty));
    }
}
