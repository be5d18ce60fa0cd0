//! The one task that writes: connects, batches, retries, tidies, drains at stop.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::batch::Batch;
use super::connect::{Connected, Target, backend_name, is_refusal};
use super::counters::Bucket;
use super::inventory;
use super::observe::{self, Note};
use super::retention::Retention;
use super::sink::{Queued, Sink};
use super::{DbState, Shared, content::Content, metrics};

/// Records of one transaction.
pub const BATCH_RECORDS: usize = 512;
/// The longest that a record waits for its batch to fill.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Minutes of counts in one transaction: after an outage there may be many.
const BUCKETS: usize = 60;
/// The first and the longest pause between attempts to reach a database that is away.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// How often an idle connection is tried.
const HEALTH_EVERY: Duration = Duration::from_secs(5);
/// How long that may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Writer {
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    target: Target,
    queued: mpsc::Receiver<Queued>,
    noted: mpsc::Receiver<Note>,
    stop: CancellationToken,
    records: Vec<Queued>,
    notes: Vec<Note>,
    retention: Retention,
    turn: inventory::Turn,
}

/// Why serving ended.
enum End {
    Stopped,
    Failed(DbErr),
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        sink: Arc<Sink>,
        target: Target,
        queued: mpsc::Receiver<Queued>,
        noted: mpsc::Receiver<Note>,
        stop: CancellationToken,
    ) -> Self {
        let retention = Retention::new(&shared.config);
        Self {
            shared,
            sink,
            target,
            queued,
            noted,
            stop,
            records: Vec::new(),
            notes: Vec::new(),
            retention,
            turn: inventory::Turn::default(),
        }
    }

    pub async fn run(mut self) {
        let mut pause = BACKOFF.0;
        loop {
            // After the stop there is one more attempt, so that a database that is there gets what is queued.
            let last = self.stop.is_cancelled();
            match self.target.connect().await {
                Ok(connected) => {
                    self.up(&connected);
                    let served = Instant::now();
                    let end = self.serve(&connected).await;
                    self.hide_readers();
                    match end {
                        End::Stopped => {
                            let _ = connected.readers.close().await;
                            let _ = connected.writer.close().await;
                            self.down("closed");
                            return;
                        }
                        End::Failed(error) => self.failed(&error.to_string()),
                    }
                    if served.elapsed() > BACKOFF.1 {
                        pause = BACKOFF.0;
                    }
                }
                Err(error) => self.failed(&error.to_string()),
            }
            if last {
                break;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
        self.abandon();
    }

    async fn serve(&mut self, connected: &Connected) -> End {
        let mut tick = tokio::time::interval(BATCH_TIME);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_contact = Instant::now();
        loop {
            let room = BATCH_RECORDS - self.records.len().min(BATCH_RECORDS);
            let mut ticked = false;
            tokio::select! {
                () = self.stop.cancelled() => return self.drain(connected).await,
                _ = self.queued.recv_many(&mut self.records, room), if room > 0 => {
                    if self.records.len() < BATCH_RECORDS {
                        continue;
                    }
                }
                Some(note) = self.noted.recv(), if self.notes.len() < observe::QUEUE => {
                    self.notes.push(note);
                    continue;
                }
                _ = tick.tick() => ticked = true,
            }
            self.shared.metrics.queued.set(i64::try_from(self.sink.queued()).unwrap_or(i64::MAX));
            match self.write(connected).await {
                Ok(true) => last_contact = Instant::now(),
                Ok(false) => {}
                Err(error) => return End::Failed(error),
            }
            if ticked {
                match self.retention.step(&connected.writer, SystemTime::now()).await {
                    Ok(retired) => drop(self.shared.metrics.retired.inc_by(retired)),
                    Err(error) => return End::Failed(error),
                }
                if let Some(inventory) = self.turn.take(&connected.readers).await {
                    self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).inventory = Some(inventory);
                }
            }
            if last_contact.elapsed() > HEALTH_EVERY {
                if let Err(error) = probe(&connected.writer).await {
                    return End::Failed(error);
                }
                last_contact = Instant::now();
            }
        }
    }

    /// Writes what is at hand in one transaction; whether there was anything. On an error everything is kept.
    async fn write(&mut self, connected: &Connected) -> Result<bool, DbErr> {
        let buckets: Vec<Bucket> = {
            let mut counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
            counters.turn(SystemTime::now());
            counters.closed().take(BUCKETS).cloned().collect()
        };
        let content = std::mem::take(&mut *self.shared.content.lock().unwrap_or_else(PoisonError::into_inner));
        let batch = self.batch(&self.records, &buckets, &content, connected);
        if batch.is_empty() {
            return Ok(false);
        }
        let written = batch.write(&connected.writer).await;
        match written {
            Ok(()) => self.shared.metrics.written.inc_by(self.records.len() as u64),
            Err(error) => {
                self.shared.content.lock().unwrap_or_else(PoisonError::into_inner).restore(content);
                if !is_refusal(&error) {
                    return Err(error);
                }
                // One of them is not acceptable: each gets its own transaction, and the rest goes the next time.
                warn!(%error, "the database refuses a batch");
                self.write_singly(connected).await?;
                return Ok(true);
            }
        };
        self.release();
        self.notes.clear();
        let mut counters = self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for bucket in &buckets {
            counters.written(bucket.start_us);
        }
        Ok(true)
    }

    async fn write_singly(&mut self, connected: &Connected) -> Result<(), DbErr> {
        let nothing = Content::default();
        let mut refused = 0;
        // Notes may be what is refused; they come again every minute.
        self.shared.metrics.notes_dropped.inc_by(self.notes.len() as u64);
        self.notes.clear();
        for queued in self.records.chunks(1) {
            match self.batch(queued, &[], &nothing, connected).write(&connected.writer).await {
                Ok(()) => drop(self.shared.metrics.written.inc()),
                Err(error) if is_refusal(&error) => refused += 1,
                // What is written already is found there by its id when it is tried again.
                Err(error) => return Err(error),
            }
        }
        self.shared.metrics.dropped.get_or_create(&metrics::REFUSED).inc_by(refused);
        self.release();
        Ok(())
    }

    fn batch<'a>(
        &'a self,
        records: &'a [Queued],
        buckets: &'a [Bucket],
        content: &'a Content,
        connected: &Connected,
    ) -> Batch<'a> {
        let (hardware_id, process) = (connected.hardware_id, self.shared.process);
        Batch { records, notes: &self.notes, buckets, content, hardware_id, process }
    }

    fn release(&mut self) {
        self.sink.released(self.records.iter().map(|queued| queued.parts).sum());
        self.records.clear();
    }

    /// Takes nothing more, and writes all that is here.
    async fn drain(&mut self, connected: &Connected) -> End {
        self.queued.close();
        self.noted.close();
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).close();
        while let Ok(note) = self.noted.try_recv() {
            self.notes.push(note);
        }
        loop {
            let room = BATCH_RECORDS.saturating_sub(self.records.len());
            let more = room > 0 && self.queued.recv_many(&mut self.records, room).await > 0;
            match self.write(connected).await {
                Ok(wrote) if !more && !wrote => return End::Stopped,
                Ok(_) => {}
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// The server stops and the database is away: what is left is lost, and counted.
    fn abandon(&mut self) {
        self.queued.close();
        let mut lost = self.records.len() as u64;
        while self.queued.try_recv().is_ok() {
            lost += 1;
        }
        if lost > 0 {
            warn!(lost, "retrievals could not be written before the stop");
        }
        self.shared.metrics.dropped.get_or_create(&metrics::STOPPED).inc_by(lost);
    }

    fn up(&self, connected: &Connected) {
        let backend = backend_name(&connected.writer);
        info!(backend, "metrics database is ready");
        self.shared.metrics.up.set(1);
        *self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.readers.clone());
        *self.shared.direct.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.writer.clone());
        self.shared.state.send_replace(DbState::Up { since: SystemTime::now(), backend });
    }

    fn failed(&self, reason: &str) {
        self.shared.metrics.failures.inc();
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).last_failure =
            Some((SystemTime::now(), reason.to_owned()));
        self.down(reason);
    }

    /// The first reason and time stand until it is up again; a new reason is told.
    fn down(&self, reason: &str) {
        self.hide_readers();
        self.shared.metrics.up.set(0);
        self.shared.state.send_modify(|state| {
            let since = match state {
                DbState::Down { since, reason: before } => {
                    if before == reason {
                        debug!(reason, "metrics database is still away");
                    } else {
                        warn!(reason, "metrics database is away");
                    }
                    *since
                }
                DbState::Up { .. } => {
                    warn!(reason, "metrics database is away");
                    SystemTime::now()
                }
            };
            *state = DbState::Down { reason: reason.to_owned(), since };
        });
    }

    fn hide_readers(&self) {
        *self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.shared.direct.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn probe(db: &DatabaseConnection) -> Result<(), DbErr> {
    let timeout = || DbErr::Custom(format!("no answer within {HEALTH_TIMEOUT:?}"));
    let answer = tokio::time::timeout(HEALTH_TIMEOUT, db.execute_unprepared("SELECT 1")).await;
    answer.unwrap_or_else(|_| Err(timeout())).map(drop)
}
