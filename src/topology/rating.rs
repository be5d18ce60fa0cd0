//! Figures and what they are called, each a pure function (DATA.md §3).

use serde::Serialize;

use super::Shape;
use crate::db::counters::Tally;

/// Transfers with a bound under which the speed is not rated.
const MIN_RATED: u64 = 5;
/// Observed edges under which only attempt success is told.
pub const MIN_EDGES: u64 = 10;

/// Declares a closed set of words with one spelling for JSON, rows and pages.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum $name { $(#[serde(rename = $text)] $variant),+ }
        impl $name {
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
        }
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, Type};
                // The derive does not see names that come through a macro.
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some([$($text),+])).into()
            }
        }
        impl utoipa::ToSchema for $name {}
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words! {
    /// Of the optimisation score: >= 0.8, >= 0.6, >= 0.3, less.
    Rating { Excellent => "excellent", Good => "good", Fair => "fair", NeedsImprovement => "needs improvement", Unknown => "unknown" }
}

words! {
    /// Of the speed against what the providers used allowed; the same steps.
    SpeedRating { Excellent => "excellent", Good => "good", Fair => "fair", Slow => "slow", Unknown => "unknown" }
}

words! {
    /// Of reach, not of density: a healthy network is sparse.
    Health { Good => "good", Fair => "fair", Poor => "poor", Unknown => "unknown" }
}

impl Rating {
    pub fn of(score: Option<f64>) -> Self {
        match score {
            Some(0.8..) => Self::Excellent,
            Some(0.6..) => Self::Good,
            Some(0.3..) => Self::Fair,
            Some(_) => Self::NeedsImprovement,
            None => Self::Unknown,
        }
    }
}

/// Bytes a second while transferring.
pub fn average_transfer_speed(tally: &Tally) -> Option<f64> {
    (tally.transfer_time_us > 0).then(|| tally.transfer_bytes as f64 / (tally.transfer_time_us as f64 / 1e6))
}

/// Byte-weighted mean of bound / transfer time.
pub fn optimization_score(tally: &Tally) -> Option<f64> {
    (tally.score_bytes > 0.0).then(|| tally.score_sum / tally.score_bytes)
}

/// The average speed against that which the providers used allow: bytes are the same, so it is a ratio of times.
pub fn speed(tally: &Tally) -> SpeedRating {
    if tally.scored_transfers < MIN_RATED || tally.scored_time_us == 0 {
        return SpeedRating::Unknown;
    }
    match tally.bound_time_us as f64 / tally.scored_time_us as f64 {
        0.8.. => SpeedRating::Excellent,
        0.6.. => SpeedRating::Good,
        0.3.. => SpeedRating::Fair,
        _ => SpeedRating::Slow,
    }
}

/// `good`: at least 95 % of known peers in the largest component, no single loss cuts off over 10 %, attempts succeed
/// at 95 %. `poor`: under 80 % in reach, over 25 % cut off, or under 80 % success. `fair` between.
pub fn health(shape: &Shape, attempt_success: Option<f64>) -> Health {
    let (Some(reach), true) = (shape.reach, shape.edges >= MIN_EDGES) else { return Health::Unknown };
    let cut = shape.worst_cut;
    // Attempts that nobody made say nothing against the network.
    let success = attempt_success.unwrap_or(1.0);
    if reach < 0.80 || cut > 0.25 || success < 0.80 {
        Health::Poor
    } else if reach >= 0.95 && cut <= 0.10 && success >= 0.95 {
        Health::Good
    } else {
        Health::Fair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_step_where_they_are_said_to() {
        let steps = [0.81, 0.8, 0.79, 0.6, 0.59, 0.3, 0.29, 0.0].map(|score| Rating::of(Some(score)));
        use Rating::{Excellent, Fair, Good, NeedsImprovement};
        assert_eq!(steps, [Excellent, Excellent, Good, Good, Fair, Fair, NeedsImprovement, NeedsImprovement]);
        assert_eq!(Rating::of(None), Rating::Unknown);
    }

    #[test]
    fn speed_is_not_rated_under_five_transfers() {
        let mut tally = Tally { scored_transfers: 4, scored_time_us: 100, bound_time_us: 90, ..Tally::default() };
        assert_eq!(speed(&tally), SpeedRating::Unknown);
        tally.scored_transfers = 5;
        assert_eq!(speed(&tally), SpeedRating::Excellent);
        tally.bound_time_us = 29;
        assert_eq!(speed(&tally), SpeedRating::Slow);
    }

    #[test]
    fn health_is_about_reach_cuts_and_success() {
        let shape = |reach, worst_cut, edges| Shape { reach: Some(reach), worst_cut, edges, ..Shape::default() };
        assert_eq!(health(&shape(0.95, 0.10, 10), Some(0.95)), Health::Good);
        assert_eq!(health(&shape(0.94, 0.10, 10), Some(0.95)), Health::Fair);
        assert_eq!(health(&shape(1.0, 0.11, 10), Some(1.0)), Health::Fair);
        assert_eq!(health(&shape(1.0, 0.26, 10), Some(1.0)), Health::Poor);
        assert_eq!(health(&shape(0.79, 0.0, 10), Some(1.0)), Health::Poor);
        assert_eq!(health(&shape(1.0, 0.0, 10), Some(0.79)), Health::Poor);
        assert_eq!(health(&shape(1.0, 0.0, 9), Some(1.0)), Health::Unknown);
    }
}
