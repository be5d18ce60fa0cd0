//! Which roots were served, and how often: exact, whatever becomes of the rows. `content_items` is fed from it.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter};

use super::entity::content_item::{ActiveModel, Column, Entity};
use super::rows;
use crate::ipld::Cid;

/// Distinct roots that may wait for the database.
const MAX_ROOTS: usize = 16_384;
/// Roots of one statement.
const PER_STATEMENT: usize = 500;
/// After so long without a request, a root's figure of requests is half of what it was.
pub const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Requests by root since the last commit.
#[derive(Debug, Default)]
pub struct Content {
    roots: HashMap<Cid, Requests>,
}

#[derive(Debug, Clone, Copy)]
struct Requests {
    count: u64,
    last: SystemTime,
}

impl Content {
    /// Counts one served request; false when there is no room for another root.
    pub fn count(&mut self, root: Cid, now: SystemTime) -> bool {
        if self.roots.len() >= MAX_ROOTS && !self.roots.contains_key(&root) {
            return false;
        }
        let requests = self.roots.entry(root).or_insert(Requests { count: 0, last: now });
        requests.count += 1;
        requests.last = requests.last.max(now);
        true
    }

    /// Takes back what could not be written.
    pub fn restore(&mut self, older: Self) {
        for (root, requests) in older.roots {
            if self.roots.len() < MAX_ROOTS || self.roots.contains_key(&root) {
                let now = self.roots.entry(root).or_insert(Requests { count: 0, last: requests.last });
                now.count += requests.count;
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Adds the requests to the table, the older ones decayed.
    pub async fn write(&self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        let mut roots: Vec<(String, Requests)> =
            self.roots.iter().map(|(root, requests)| (rows::canonical(root), *requests)).collect();
        // One order for all writers of a shared database: no deadlock.
        roots.sort_by(|a, b| a.0.cmp(&b.0));
        roots.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1.count += later.1.count;
                first.1.last = first.1.last.max(later.1.last);
            }
            same
        });
        for chunk in roots.chunks(PER_STATEMENT) {
            let cids = chunk.iter().map(|(cid, _)| cid.as_str());
            let known = Entity::find().filter(Column::Cid.is_in(cids)).all(db).await?;
            let known: HashMap<_, _> = known.iter().map(|row| (row.cid.as_str(), row)).collect();
            let rows = chunk.iter().map(|(cid, requests)| {
                let last = rows::micros(requests.last);
                let (decayed, total, before) = known
                    .get(cid.as_str())
                    .map_or((0.0, 0, last), |row| (row.requests_decayed, row.requests_total, row.last_request));
                ActiveModel {
                    cid: Set(cid.clone()),
                    requests_decayed: Set(decay(decayed, last - before) + requests.count as f64),
                    requests_total: Set(total.saturating_add(rows::int(requests.count))),
                    last_request: Set(last.max(before)),
                    ..Default::default()
                }
            });
            let update = OnConflict::column(Column::Cid)
                .update_columns([Column::RequestsDecayed, Column::RequestsTotal, Column::LastRequest])
                .to_owned();
            Entity::insert_many(rows).on_conflict(update).exec_without_returning(db).await?;
        }
        Ok(())
    }
}

/// What a figure of requests is worth after `elapsed_us`; exponential, see [`HALF_LIFE`].
pub fn decay(requests: f64, elapsed_us: i64) -> f64 {
    requests * (-(elapsed_us.max(0) as f64) / HALF_LIFE.as_micros() as f64).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_halves_what_requests_are_worth() {
        let day = HALF_LIFE.as_micros() as i64;
        assert_eq!((decay(8.0, day), decay(8.0, 3 * day), decay(8.0, -5)), (4.0, 1.0, 8.0));
    }

    #[test]
    fn what_could_not_be_written_is_added_to_what_came_since() {
        let root = crate::db::rows::tests::record(1).cid;
        let mut older = Content::default();
        assert!(older.count(root, SystemTime::UNIX_EPOCH));
        let mut content = Content::default();
        assert!(content.count(root, SystemTime::now()));
        content.restore(older);
        assert_eq!(content.roots[&root].count, 2);
    }
}
