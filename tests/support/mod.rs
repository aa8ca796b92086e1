//! What the integration tests share.

#![allow(dead_code)]

pub mod accounts;
pub mod azurite;
pub mod boto;
pub mod dockerd;
pub mod gcs;
pub mod host;
pub mod moto;
pub mod netns;
pub mod opened;
pub mod orders;
pub mod plugin;
pub mod raw;
pub mod rig;
pub mod s3server;
pub mod scrape;
pub mod seeded;
pub mod stub;
pub mod tls;
pub mod unmanaged;
pub mod volume;
pub mod watchdog;
pub mod world;

use std::time::{Duration, Instant};

use s3vol::types::FileName;

/// Bytes of which no two pieces are the same; others for another `state`, which is not 0.
pub fn noise(mut state: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A name of a file.
pub fn named(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

/// Polls until `condition` gives a value; panics after `deadline` with `what`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`wait_for`] for asynchronous tests.
pub async fn wait_for_async<T, F>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Option<T>>,
{
    let poll = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(deadline, poll).await {
        Ok(value) => value,
        Err(_) => panic!("not within {deadline:?}: {what}"),
    }
}

/// Waits until `condition` holds, a minute at most.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = || async { condition().then_some(()) };
    wait_for_async(what, Duration::from_secs(60), holds).await;
}
