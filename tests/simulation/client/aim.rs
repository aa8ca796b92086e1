//! Writing to a file just while it is published.

use std::time::Duration;

use s3vol::types::FileKind;

use crate::model::{Id, State};
use crate::random::Random;
use crate::sim::sim;

/// What a program writes to beside a request.
pub enum Aim {
    /// This is published.
    At(String),
    /// A segment goes up, with the bytes of some files.
    Any,
}

pub fn target(random: &Random, state: &State, aim: Aim) -> Option<String> {
    let is_file = |id: &Id| state.nodes[id].kind == FileKind::File;
    let files: Vec<&String> =
        state.names.iter().filter(|(_, id)| is_file(id)).map(|(name, _)| name).collect();
    match aim {
        Aim::At(path) => files.contains(&&path).then_some(path),
        Aim::Any => (!files.is_empty()).then(|| (*random.of(&files)).clone()),
    }
}

/// Waits for a while until something below `home` is published, or a segment goes up.
pub async fn published(home: &str) -> Option<Aim> {
    let bucket = &sim().bucket;
    let wait = async {
        loop {
            bucket.publishes.notified().await;
            let key = bucket.published.borrow().clone().unwrap_or_default();
            let Some(path) = key.strip_prefix(crate::host::PREFIX) else { return Some(Aim::Any) };
            if let Some(path) = path.strip_prefix(home).and_then(|path| path.strip_prefix('/')) {
                return Some(Aim::At(path.to_owned()));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(6), wait).await.unwrap_or_default()
}
