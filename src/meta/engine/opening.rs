//! The engine's store while a volume is opened: what was read once is not asked for again, and what will be
//! asked for next is on its way.
//!
//! To open a database its manifest is read three times: to judge whose turn it is, before the claim, and by
//! the claim itself; each time it is listed, read, and compared with the collector's boundary. What was found
//! the first time is the answer to the others, until this process sends a manifest of its own, or what was
//! found is [`FRESH`] no more, or it was the answer to as many. From then on every request passes through.
//!
//! A worker that made place left word of the newest manifest ([`Newest`]): that one, and the log after it, are then asked
//! for together with the listing. It is only a guess at what will be asked for.
//!
//! An old view can only lose. The claim creates the manifest after the one that was seen: where somebody was
//! first it is refused, and the engine reads anew. And the boundary, which tells that a number was used and
//! collected since, counts as it is read after that.

mod log;
mod tables;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use slatedb::object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result, path::Path,
};
use tokio::sync::watch;

use super::{Engine, EngineError, EngineHome, guarded, handle};
use crate::clock::boottime;
use crate::types::Epoch;
use log::Log;
use tables::Tables;

/// What was found is believed for so long. Manifests are collected when they are hours old.
const FRESH: Duration = Duration::from_secs(5);
/// One who reads the manifests and again and again finds that the newest was collected must see others in the end.
const READERS: u32 = 3;

/// What the writer of a database knew of it last: the number of its manifest, and of the last object of the log that its
/// tables have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    pub manifest: u64,
    pub log_after: u64,
}

impl Newest {
    /// As `engine` knows it, which is the writer.
    pub async fn of(engine: &Engine) -> Result<Newest, EngineError> {
        let manifest = engine.inner.handle().await?.db.manifest();
        // The compactor's own the database does not know before it looks.
        let written = engine.inner.backend.store.last_manifest().unwrap_or_default();
        Ok(Newest {
            manifest: manifest.id().max(written),
            log_after: manifest.replay_after_wal_id(),
        })
    }
}

/// Around the store that the engine is opened with. It stays there while the engine is used, and after
/// [`done`](Opening::done) does nothing any more.
#[derive(Debug, Clone)]
pub struct Opening(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    home: EngineHome,
    manifests: Path,
    boundary: Path,
    log: Path,
    tables: Path,
    seen: Mutex<Seen>,
    /// So many manifests were sent.
    sent: AtomicU32,
    claimed: watch::Sender<Claimed>,
}

/// Whether the first manifest that was sent is a claim that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claimed {
    NotYet,
    Yes,
    /// It is not known before the engine is open.
    Untold,
}

#[derive(Debug, Default)]
struct Seen {
    /// By boot time.
    since: Option<Duration>,
    manifests: Option<Vec<ObjectMeta>>,
    /// How many saw `manifests`.
    readers: u32,
    objects: HashMap<Path, Found>,
    log: Option<Log>,
    /// What is read of the log before the manifest says from where on.
    log_ahead: Option<Log>,
    tables: Tables,
    /// A manifest was sent: of manifests nothing is remembered any more.
    over: bool,
}

/// An object, or that there is none.
#[derive(Debug, Clone)]
enum Found {
    Object { meta: ObjectMeta, attributes: Attributes, body: Bytes },
    None,
}

impl Opening {
    /// For the database at `home`.
    pub fn new(store: Arc<dyn ObjectStore>, home: &EngineHome) -> Self {
        let path = Path::from(home.folder.as_str());
        Opening(Arc::new(Inner {
            store,
            home: home.clone(),
            manifests: path.clone().join("manifest"),
            log: path.clone().join("wal"),
            tables: path.clone().join("compacted"),
            boundary: path.join("gc").join("manifest.boundary"),
            seen: Mutex::default(),
            sent: AtomicU32::new(0),
            claimed: watch::Sender::new(Claimed::NotYet),
        }))
    }

    /// Whether it is for the database at `home`.
    pub fn is_for(&self, home: &EngineHome) -> bool {
        self.0.home == *home
    }

    /// Lists the manifests for whoever reads them next, and fetches the one that is `likely` the newest. If that fails, they do
    /// it themselves.
    pub async fn look(&self, likely: Option<Newest>) {
        let fetched = async {
            let Some(newest) = likely else { return };
            self.0.seen.lock().log_ahead = Some(self.0.read_log(newest.log_after));
            let manifest = format!("{:020}.manifest", newest.manifest);
            self.0.fetch_ahead(self.0.manifests.clone().join(manifest)).await;
        };
        let (listed, ()) = futures::join!(Arc::clone(&self.0).list_manifests(), fetched);
        if let Err(error) = listed {
            tracing::debug!(%error, "the manifests are not listed ahead");
        }
        self.0.seen.lock().readers = 0;
    }

    /// As [`Engine::writer_epoch`](super::Engine::writer_epoch). From then on the log is read, too,
    /// and with `tables` what the first lookups need of those: where no mirror has them.
    pub async fn writer_epoch(&self, tables: bool) -> Result<Option<Epoch>, EngineError> {
        let folder = &self.0.home.folder;
        let Some(manifest) = guarded(handle::newest(self.store(), folder)).await? else {
            return Ok(None);
        };
        let after = manifest.replay_after_wal_id();
        let mut seen = self.0.seen.lock();
        let ahead = seen.log_ahead.take().filter(|log| log.is_after(&self.0.log_object(after)));
        seen.log = Some(ahead.unwrap_or_else(|| self.0.read_log(after)));
        if tables {
            seen.tables = Tables::fetch(&self.0.store, &self.0.tables, &manifest);
        }
        drop(seen);
        Ok(Some(Epoch(self.0.home.after.0 + manifest.writer_epoch())))
    }

    /// For the engine.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.clone())
    }

    /// Returns when the claim is in the bucket and counts, which is before the engine is open: the epoch after the one that
    /// was seen is ours. `false` if that is not known until [`done`](Opening::done).
    pub async fn claimed(&self) -> bool {
        let mut claimed = self.0.claimed.subscribe();
        let known = claimed.wait_for(|claimed| *claimed != Claimed::NotYet).await;
        known.is_ok_and(|claimed| *claimed == Claimed::Yes)
    }

    /// The engine is open, or it will not be: nothing is kept any longer.
    pub fn done(&self) {
        self.0.tell(Claimed::Untold);
        *self.0.seen.lock() = Seen { over: true, ..Seen::default() };
    }

    /// Time has passed since: everything is asked for anew.
    pub fn forget(&self) {
        self.0.seen.lock().forget();
    }
}

impl Seen {
    fn forget(&mut self) {
        *self = Seen { over: self.over, ..Seen::default() };
    }
}

impl Inner {
    /// What was found, as long as it counts.
    fn fresh(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock();
        if seen.since.is_some_and(|since| boottime().saturating_sub(since) > FRESH) {
            seen.forget();
        }
        seen
    }

    fn listed(&self) -> Option<Vec<ObjectMeta>> {
        let mut seen = self.fresh();
        if seen.readers >= READERS {
            seen.forget();
        }
        let listed = seen.manifests.clone()?;
        seen.readers += 1;
        Some(listed)
    }

    /// Remembers what was asked at `asked`.
    fn note(&self, asked: Duration, note: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock();
        if !seen.over {
            seen.since.get_or_insert(asked);
            note(&mut seen);
        }
    }

    fn is_over(&self) -> bool {
        self.seen.lock().over
    }

    /// A listing of the manifests, and with it the boundary: whoever reads the manifests asks for that next.
    async fn list_manifests(self: Arc<Self>) -> Result<Vec<ObjectMeta>> {
        if let Some(listed) = self.listed() {
            return Ok(listed);
        }
        let asked = boottime();
        let list = self.store.list(Some(&self.manifests)).try_collect::<Vec<_>>();
        if self.is_over() {
            return list.await;
        }
        let boundary = self.fetch(&self.boundary);
        let (listed, boundary) = futures::join!(list, boundary);
        let listed = listed?;
        self.note(asked, |seen| {
            seen.manifests = Some(listed.clone());
            seen.readers = 1;
            // Who needs it asks again.
            seen.objects.extend(boundary.ok().map(|found| (self.boundary.clone(), found)));
        });
        Ok(listed)
    }

    fn log_object(&self, number: u64) -> Path {
        self.log.clone().join(format!("{number:020}.sst"))
    }

    fn read_log(&self, after: u64) -> Log {
        Log::read(Arc::clone(&self.store), self.log.clone(), self.log_object(after))
    }

    /// The first that is said counts.
    fn tell(&self, now: Claimed) {
        self.claimed.send_if_modified(|claimed| {
            let first = *claimed == Claimed::NotYet;
            if first {
                *claimed = now;
            }
            first
        });
    }

    /// A manifest for who may ask for it next. Nobody changes one.
    async fn fetch_ahead(&self, location: Path) {
        let asked = boottime();
        if let Ok(found @ Found::Object { .. }) = self.fetch(&location).await {
            self.note(asked, |seen| {
                seen.objects.insert(location, found);
            });
        }
    }

    /// A whole object.
    async fn fetch(&self, location: &Path) -> Result<Found> {
        match self.store.get_opts(location, GetOptions::default()).await {
            Ok(got) => Found::of(got).await,
            Err(Error::NotFound { .. }) => Ok(Found::None),
            Err(error) => Err(error),
        }
    }

    fn is_manifest(&self, location: &Path) -> bool {
        location.prefix_matches(&self.manifests)
    }

    /// What is known of what never changes: an object of the log, or a table.
    async fn get_fixed(&self, location: &Path, options: &GetOptions) -> Option<Result<GetResult>> {
        let GetOptions { range, head, version: None, .. } = options else { return None };
        if has_conditions(options) {
            return None;
        }
        let (log, tables, over) = {
            let seen = self.fresh();
            (seen.log.clone().filter(|log| log.has(location)), seen.tables.clone(), seen.over)
        };
        match (head, range, log) {
            (true, None, Some(log)) => log.head(location, !over).await,
            (false, Some(range), Some(log)) => log.get(location, range).await,
            (false, Some(range), None) => tables.get(location, range).await,
            _ => None,
        }
    }

    async fn get_opening(&self, location: &Path) -> Result<GetResult> {
        let found = self.fresh().objects.get(location).cloned();
        if let Some(found) = found {
            return found.answer(location, None);
        }
        let asked = boottime();
        let found = self.fetch(location).await?;
        // That the newest manifest of a listing is missing means that the listing is old.
        if matches!(found, Found::Object { .. }) {
            self.note(asked, |seen| {
                seen.objects.insert(location.clone(), found.clone());
            });
        } else {
            self.note(asked, |seen| seen.manifests = None);
        }
        found.answer(location, None)
    }
}

impl Found {
    async fn of(got: GetResult) -> Result<Self> {
        let (meta, attributes) = (got.meta.clone(), got.attributes.clone());
        Ok(Found::Object { meta, attributes, body: got.bytes().await? })
    }

    /// As the store would have said it. `part` is within the body.
    fn answer(self, location: &Path, part: Option<Range<u64>>) -> Result<GetResult> {
        match self {
            Found::Object { meta, attributes, body } => {
                let range = part.unwrap_or(0..body.len() as u64);
                let body = body.slice(range.start as usize..range.end as usize);
                let (payload, extensions) = (whole(body), Default::default());
                Ok(GetResult { payload, meta, range, attributes, extensions })
            }
            Found::None => Err(Error::NotFound {
                path: location.to_string(),
                source: "it was not there a moment ago".into(),
            }),
        }
    }
}

fn whole(body: Bytes) -> GetResultPayload {
    GetResultPayload::Stream(futures::stream::once(futures::future::ready(Ok(body))).boxed())
}

/// Whether a whole object is asked for, whatever it is.
fn is_plain(options: &GetOptions) -> bool {
    let GetOptions { range: None, version: None, head: false, .. } = options else { return false };
    !has_conditions(options)
}

fn has_conditions(options: &GetOptions) -> bool {
    let GetOptions { if_match, if_none_match, if_modified_since, if_unmodified_since, .. } =
        options;
    if_match.is_some()
        || if_none_match.is_some()
        || if_modified_since.is_some()
        || if_unmodified_since.is_some()
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Opening {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if self.0.is_manifest(location) {
            self.0.sent.fetch_add(1, Ordering::SeqCst);
            let mut seen = self.0.seen.lock();
            let (log, tables) = (seen.log.take(), std::mem::take(&mut seen.tables));
            *seen = Seen { over: true, log, tables, ..Seen::default() };
        }
        // The fence: the engine sends it when its claim is there and the boundary has nothing against its number. If more than
        // one manifest was sent the epoch is another one, and the engine says which.
        if location.prefix_matches(&self.0.log) && self.0.sent.load(Ordering::SeqCst) == 1 {
            self.0.tell(Claimed::Yes);
        }
        let size = payload.content_length() as u64;
        let put = self.0.store.put_opts(location, payload, opts).await?;
        let log = self.0.seen.lock().log.clone().filter(|log| log.has(location));
        if let Some(log) = log {
            log.wrote(location, size, &put);
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(known) = self.0.get_fixed(location, &options).await {
            return known;
        }
        let remembered = *location == self.0.boundary || self.0.is_manifest(location);
        match remembered && is_plain(&options) && !self.0.is_over() {
            true => self.0.get_opening(location).await,
            false => self.0.store.get_opts(location, options).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.store.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.0.is_over() || prefix != Some(&self.0.manifests) {
            return self.0.store.list(prefix);
        }
        let listed = Arc::clone(&self.0).list_manifests();
        futures::stream::once(listed)
            .map_ok(|listed| futures::stream::iter(listed.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.store.rename_opts(from, to, options).await
    }
}
