//! Work that goes on when its caller hangs up, and that a repeated call joins.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Deadline;

/// A call: what is asked, and of what. Equal calls that overlap are one.
pub(super) type Key = (&'static str, String);

/// The answer of a call, as JSON or as the text of `Err`.
pub(super) type Answer = Result<serde_json::Value, String>;

type Running = HashMap<Key, watch::Receiver<Option<Answer>>>;

/// Running calls, and calls whose answer nobody heard.
#[derive(Default)]
pub(super) struct Jobs {
    running: Arc<Mutex<Running>>,
    unheard: Mutex<HashMap<Key, Deadline>>,
}

impl Jobs {
    /// Runs `work` in a task of its own, or joins the one that runs for `key`. `unheard` is called
    /// when the work ended and every caller had hung up; it must neither block nor call this.
    pub async fn run(
        &self,
        key: Key,
        work: impl Future<Output = Answer> + Send + 'static,
        unheard: impl FnOnce(Answer) + Send + 'static,
    ) -> Answer {
        let mut answer = {
            let mut running = self.running.lock();
            match running.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let (tell, answer) = watch::channel(None);
                    running.insert(key.clone(), answer.clone());
                    let jobs = Arc::clone(&self.running);
                    tokio::spawn(async move {
                        let result = guarded(work).await;
                        // Under the lock, so that who comes now either still joins or finds
                        // `unheard` done. The receivers that remain are callers that listen.
                        let mut running = jobs.lock();
                        running.remove(&key);
                        if tell.send(Some(result.clone())).is_err() {
                            unheard(result);
                        }
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

    /// Remembers for `hold` that the answer to `key` was not heard.
    pub fn was_unheard(&self, key: Key, hold: Duration) {
        self.unheard.lock().insert(key, Deadline::after(hold));
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
