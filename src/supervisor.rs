//! Every background task has a name, an owner, a cancellation token and a logged end (invariant 9).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error, info_span};

/// Owns tasks. Cheap to clone; clones share the same tasks and the same stop.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tracker: TaskTracker,
    stop: CancellationToken,
    running: Mutex<BTreeMap<&'static str, Worker>>,
}

/// How many tasks of one name run, and since when the oldest started: what the System page lists.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    pub running: usize,
    pub ended: u64,
    pub panicked: u64,
    pub since: Instant,
}

impl Supervisor {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when [`Supervisor::stop`] is called. Tasks select on it.
    pub fn token(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Runs a task under a name from a closed set. A panic is logged and counted, and ends only that task.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let inner = self.inner.clone();
        inner.started(name);
        let span = info_span!("task", name);
        let body = async move {
            #[allow(clippy::disallowed_methods)] // the one place where tasks start
            let result = tokio::spawn(task.in_current_span()).await;
            match result {
                Ok(output) => {
                    debug!("ended");
                    inner.ended(name, false);
                    Some(output)
                }
                Err(join) => {
                    if join.is_panic() {
                        error!(error = %join, "panicked");
                    }
                    inner.ended(name, join.is_panic());
                    None
                }
            }
        };
        self.inner.tracker.spawn(body.instrument(span))
    }

    /// Like [`Supervisor::spawn`] for short tasks on the request path: no second task around it.
    pub fn spawn_short<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.tracker.spawn(task)
    }

    /// Asks every task to end and waits up to `grace`. Returns the names of those that did not end in time.
    pub async fn stop(&self, grace: Duration) -> Vec<&'static str> {
        self.inner.stop.cancel();
        self.inner.tracker.close();
        let _ = tokio::time::timeout(grace, self.inner.tracker.wait()).await;
        self.workers().into_iter().filter(|(_, worker)| worker.running > 0).map(|(name, _)| name).collect()
    }

    pub fn workers(&self) -> BTreeMap<&'static str, Worker> {
        self.inner.lock().clone()
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Worker>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, name: &'static str) {
        let mut running = self.lock();
        let worker = running.entry(name).or_insert(Worker { running: 0, ended: 0, panicked: 0, since: Instant::now() });
        worker.running += 1;
    }

    fn ended(&self, name: &'static str, panicked: bool) {
        if let Some(worker) = self.lock().get_mut(name) {
            worker.running -= 1;
            worker.ended += 1;
            worker.panicked += u64::from(panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_task_alone_and_is_counted() {
        let supervisor = Supervisor::new();
        assert_eq!(supervisor.spawn("bad", async { panic!("on purpose") }).await.unwrap(), None::<()>);
        assert_eq!(supervisor.spawn("good", async { 7 }).await.unwrap(), Some(7));
        assert_eq!(supervisor.workers()["bad"].panicked, 1);
        assert_eq!(supervisor.workers()["good"].panicked, 0);
    }

    #[tokio::test]
    async fn stop_names_the_tasks_that_did_not_end() {
        let supervisor = Supervisor::new();
        let token = supervisor.token();
        supervisor.spawn("polite", async move { token.cancelled().await });
        supervisor.spawn("stubborn", std::future::pending::<()>());
        assert_eq!(supervisor.stop(Duration::from_millis(50)).await, vec!["stubborn"]);
    }
}
