//! The engine's log while a volume is opened: one listing instead of a search, and what is in it fetched before
//! it is asked for.
//!
//! Objects of the log are created once, and nobody changes them, so what was found of one holds as long as the
//! opening lasts. That there is none holds only for the search, which comes before the claim: whatever it
//! misses refuses the fence, which then goes to the next number.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use slatedb::object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, PutResult, Result, path::Path,
};

use super::Found;

/// A longer log is read as the engine does it, objects. One page of a listing has more.
const MOST_OBJECTS: usize = 256;
/// Bodies are fetched ahead of as many objects of no more than this, bytes. A log that its writer closed is
/// no longer.
const MOST_BODIES: usize = 64;
const LONGEST_BODY: u64 = 256 << 10;
const MOST_BYTES: u64 = 4 << 20;

/// What the listing shows; `None`: nothing that helps.
type Listed = Shared<BoxFuture<'static, Option<Arc<HashMap<Path, ObjectMeta>>>>>;
type Body = Shared<BoxFuture<'static, Option<Found>>>;

#[derive(Debug, Clone)]
pub(super) struct Log {
    /// What comes after this was listed.
    after: Path,
    folder: Path,
    listed: Listed,
    bodies: Arc<Mutex<HashMap<Path, Body>>>,
    /// Since then.
    written: Arc<Mutex<HashMap<Path, ObjectMeta>>>,
}

impl Log {
    /// Begins to read what comes after the object at `after`.
    pub fn read(store: Arc<dyn ObjectStore>, folder: Path, after: Path) -> Self {
        let bodies: Arc<Mutex<HashMap<Path, Body>>> = Arc::default();
        let list = list(store, folder.clone(), after.clone(), Arc::clone(&bodies));
        let listed = list.boxed().shared();
        // It goes on while others are asked.
        tokio::spawn(listed.clone());
        Log { after, folder, listed, bodies, written: Arc::default() }
    }

    /// Whether what comes after `object` was read.
    pub fn is_after(&self, object: &Path) -> bool {
        self.after == *object
    }

    pub fn has(&self, location: &Path) -> bool {
        location.prefix_matches(&self.folder) && *location > self.after
    }

    /// What a HEAD would say; `None` if that is not known.
    pub async fn head(&self, location: &Path, before_the_claim: bool) -> Option<Result<GetResult>> {
        let written = self.written.lock().get(location).cloned();
        let found = match written {
            Some(meta) => Some(meta),
            None => self.listed.clone().await?.get(location).cloned(),
        };
        match found {
            Some(meta) => {
                let nothing =
                    Found::Object { meta, attributes: Default::default(), body: Bytes::new() };
                Some(nothing.answer(location, None))
            }
            None => before_the_claim.then(|| Found::None.answer(location, None)),
        }
    }

    /// A part of an object, once: who asks again did not like it.
    pub async fn get(&self, location: &Path, range: &GetRange) -> Option<Result<GetResult>> {
        let GetRange::Bounded(range) = range else { return None };
        self.listed.clone().await?;
        let body = self.bodies.lock().remove(location)?;
        let found = body.await?;
        let Found::Object { body, .. } = &found else { return None };
        let Range { start, end } = *range;
        let end = end.min(body.len() as u64);
        (start < end).then(|| found.answer(location, Some(start..end)))
    }

    /// We wrote one.
    pub fn wrote(&self, location: &Path, size: u64, put: &PutResult) {
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: Default::default(),
            size,
            e_tag: put.e_tag.clone(),
            version: put.version.clone(),
        };
        self.written.lock().insert(location.clone(), meta);
    }
}

async fn list(
    store: Arc<dyn ObjectStore>,
    folder: Path,
    after: Path,
    bodies: Arc<Mutex<HashMap<Path, Body>>>,
) -> Option<Arc<HashMap<Path, ObjectMeta>>> {
    let entries = store.list_with_offset(Some(&folder), &after).take(MOST_OBJECTS + 1);
    let entries: Vec<ObjectMeta> = match entries.try_collect().await {
        Ok(entries) => entries,
        Err(error) => {
            tracing::debug!(%error, "the log is not read ahead");
            return None;
        }
    };
    if entries.len() > MOST_OBJECTS {
        return None;
    }
    let full: Vec<_> = entries.iter().filter(|entry| entry.size > 0).collect();
    let bytes: u64 = full.iter().map(|entry| entry.size).sum();
    if full.len() <= MOST_BODIES && bytes <= MOST_BYTES {
        for entry in full.into_iter().filter(|entry| entry.size <= LONGEST_BODY) {
            let (store, location) = (Arc::clone(&store), entry.location.clone());
            // An error is met again by who asks for it.
            let fetch = async move {
                let got = store.get_opts(&location, GetOptions::default()).await.ok()?;
                Found::of(got).await.ok()
            };
            let body = fetch.boxed().shared();
            tokio::spawn(body.clone());
            bodies.lock().insert(entry.location.clone(), body);
        }
    }
    Some(Arc::new(entries.into_iter().map(|entry| (entry.location.clone(), entry)).collect()))
}
