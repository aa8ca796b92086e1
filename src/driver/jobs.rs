//! Work that goes on when its caller hangs up, and that a repeated call joins.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::caller::Caller;
use crate::clock::Deadline;

/// For how long running calls are waited for. They come and go, but each one answers within [`super::BUDGET`].
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// A call: what is asked, and of what. Equal calls that overlap are one.
pub(super) type Key = (&'static str, String);

/// The answer of a call, as JSON or as the text of `Err`.
pub(super) type Answer = Result<serde_json::Value, String>;

type Running = HashMap<Key, Run>;

struct Run {
    answer: watch::Receiver<Option<Answer>>,
    callers: Vec<Caller>,
}

/// Running calls, and calls whose answer nobody heard.
#[derive(Default)]
pub(super) struct Jobs {
    running: Arc<Mutex<Running>>,
    /// How many run.
    count: watch::Sender<usize>,
    unheard: Mutex<HashMap<Key, Deadline>>,
}

impl Jobs {
    /// Runs `work` in a task of its own, or joins the one that runs for `key`. `unheard` is called
    /// when the work ended and every caller had hung up; it must neither block nor call this.
    pub async fn run(
        &self,
        key: Key,
        caller: Caller,
        work: impl Future<Output = Answer> + Send + 'static,
        unheard: impl FnOnce(Answer) + Send + 'static,
    ) -> Answer {
        let mut answer = {
            let mut running = self.running.lock();
            match running.get_mut(&key) {
                Some(run) => {
                    run.callers.retain(Caller::listens);
                    run.callers.push(caller);
                    run.answer.clone()
                }
                None => {
                    let (tell, answer) = watch::channel(None);
                    let run = Run { answer: answer.clone(), callers: vec![caller] };
                    running.insert(key.clone(), run);
                    self.count.send_replace(running.len());
                    let (jobs, count) = (Arc::clone(&self.running), self.count.clone());
                    tokio::spawn(async move {
                        let result = guarded(work).await;
                        // Under the lock, so that who comes now either still joins or finds
                        // `unheard` done.
                        let mut running = jobs.lock();
                        let run = running.remove(&key);
                        if !run.is_some_and(|run| run.callers.iter().any(Caller::listens)) {
                            unheard(result.clone());
                        }
                        tell.send_replace(Some(result));
                        count.send_replace(running.len());
                        drop(running);
                    });
                    answer
                }
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or_else(|| Err(BROKEN.to_owned())),
            Err(_) => Err(BROKEN.to_owned()),
        }
    }

    /// Returns when none runs.
    pub async fn idle(&self) {
        // Not closed while this lives.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Remembers for `hold` that the answer to `key` was not heard.
    pub fn was_unheard(&self, key: Key, hold: Duration) {
        let mut unheard = self.unheard.lock();
        // Those of mounts are taken out by who takes the mounts back.
        unheard.retain(|(call, _), until| *call == "Mount" || !until.passed());
        unheard.insert(key, Deadline::after(hold));
    }

    /// Whether the answer to `key` was not heard a short while ago: a call now is its repetition.
    pub fn take_unheard(&self, key: &Key) -> bool {
        self.unheard.lock().remove(key).is_some_and(|until| !until.passed())
    }

    /// Forgets `key`; `true` when no repetition had come for it.
    pub fn expire_unheard(&self, key: &Key) -> bool {
        self.unheard.lock().remove(key).is_some()
    }
}

const BROKEN: &str = "an internal error of the plugin; its log has the details";

/// Runs `work` so that a panic is an answer and ends nothing else.
pub(super) async fn guarded(work: impl Future<Output = Answer> + Send + 'static) -> Answer {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(%error, "a call of the volume driver broke");
            Err(BROKEN.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    use super::super::caller::Connection;
    use super::*;

    const KEY: &str = "Mount";

    struct Called {
        /// The caller's end of the connection.
        far: UnixStream,
        connection: Connection,
        call: tokio::task::JoinHandle<Answer>,
    }

    /// A call whose future stays, as it does in a server that has not yet seen its caller hang up.
    async fn call(
        jobs: &Arc<Jobs>,
        end: oneshot::Receiver<()>,
        unheard: &Arc<AtomicU32>,
    ) -> Called {
        let (near, far) = UnixStream::pair().unwrap();
        let connection = Connection::of(&near).unwrap();
        let work = async move {
            end.await.unwrap();
            Ok(json!({}))
        };
        let unheard = Arc::clone(unheard);
        let told = move |_| {
            unheard.fetch_add(1, Ordering::SeqCst);
        };
        let (jobs, caller) = (Arc::clone(jobs), connection.caller());
        let before = callers(&jobs);
        let running = Arc::clone(&jobs);
        let call =
            tokio::spawn(
                async move { running.run((KEY, String::new()), caller, work, told).await },
            );
        while callers(&jobs) == before {
            tokio::task::yield_now().await;
        }
        Called { far, connection, call }
    }

    fn callers(jobs: &Jobs) -> usize {
        jobs.running.lock().get(&(KEY, String::new())).map_or(0, |run| run.callers.len())
    }

    #[tokio::test]
    async fn an_answer_is_unheard_once_its_caller_has_hung_up() {
        let (jobs, unheard) = (Arc::new(Jobs::default()), Arc::default());
        let (end, ended) = oneshot::channel();
        let called = call(&jobs, ended, &unheard).await;
        drop(called.far);
        end.send(()).unwrap();
        called.call.await.unwrap().unwrap();
        assert_eq!(unheard.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_answer_is_unheard_when_its_connection_is_no_longer_served() {
        let (jobs, unheard) = (Arc::new(Jobs::default()), Arc::default());
        let (end, ended) = oneshot::channel();
        let called = call(&jobs, ended, &unheard).await;
        drop(called.connection);
        end.send(()).unwrap();
        called.call.await.unwrap().unwrap();
        assert_eq!(unheard.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn one_caller_of_several_that_listens_is_enough() {
        let (jobs, unheard) = (Arc::new(Jobs::default()), Arc::default());
        let (end, ended) = oneshot::channel();
        let first = call(&jobs, ended, &unheard).await;
        let second = call(&jobs, oneshot::channel().1, &unheard).await;
        drop(first.far);
        end.send(()).unwrap();
        first.call.await.unwrap().unwrap();
        second.call.await.unwrap().unwrap();
        assert_eq!(unheard.load(Ordering::SeqCst), 0);
    }
}
