//! The object store as the engine sees it.
//!
//! Passes every request through and remembers two things: which manifests *this* handle wrote (to
//! tell our own claim of an epoch from a stranger's when its answer was lost), and how much WAL was
//! written (when maintenance is due). It can be cut, after which nothing is ever answered: that is
//! how a crash is simulated, and how a handle that does not end is kept from doing harm.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use slatedb::object_store::{
    Attribute, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    path::Path,
};
use tokio_util::sync::CancellationToken;

use crate::fault::{at, points};

/// The attribute under which the engine marks its conditional writes, to recognise them.
const PUT_ID: &str = "slatedbputid";

/// Manifests remembered; claims are looked up within moments.
const REMEMBERED: usize = 64;

#[derive(Debug)]
pub(in crate::meta) struct WatchedStore {
    inner: Arc<dyn ObjectStore>,
    cut: CancellationToken,
    wal_objects: AtomicU64,
    wal_bytes: AtomicU64,
    /// By manifest number.
    manifests: Mutex<BTreeMap<u64, Written>>,
}

#[derive(Debug, Default)]
struct Written {
    path: Path,
    confirmed: bool,
    put_ids: Vec<String>,
}

impl WatchedStore {
    pub(in crate::meta) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        WatchedStore {
            inner,
            cut: CancellationToken::new(),
            wal_objects: AtomicU64::new(0),
            wal_bytes: AtomicU64::new(0),
            manifests: Mutex::default(),
        }
    }

    /// From now on nothing is answered.
    pub(in crate::meta) fn cut(&self) {
        self.cut.cancel();
    }

    pub(in crate::meta) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// WAL objects and bytes written through this store so far.
    pub(in crate::meta) fn wal_written(&self) -> (u64, u64) {
        (self.wal_objects.load(Ordering::Relaxed), self.wal_bytes.load(Ordering::Relaxed))
    }

    /// The last manifest that was written through this store, by whatever part of the engine.
    pub(in crate::meta) fn last_manifest(&self) -> Option<u64> {
        let manifests = self.manifests.lock();
        manifests.iter().rev().find(|(_, written)| written.confirmed).map(|(id, _)| *id)
    }

    /// Whether the manifest that now has this number was written through this store.
    pub(in crate::meta) async fn wrote_manifest(&self, id: u64) -> Result<bool> {
        let (path, put_ids) = match self.manifests.lock().get(&id) {
            None => return Ok(false),
            Some(written) if written.confirmed => return Ok(true),
            Some(written) => (written.path.clone(), written.put_ids.clone()),
        };
        let head = self.get_opts(&path, GetOptions { head: true, ..Default::default() }).await?;
        Ok(head
            .attributes
            .get(&Attribute::Metadata(PUT_ID.into()))
            .is_some_and(|found| put_ids.iter().any(|id| id.as_str() == found.as_ref())))
    }

    async fn alive<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            _ = self.cut.cancelled() => std::future::pending().await,
            answer = request => answer,
        }
    }

    fn note_attempt(&self, path: &Path, id: u64, opts: &PutOptions) {
        let mut manifests = self.manifests.lock();
        let written = manifests.entry(id).or_default();
        written.path = path.clone();
        if let Some(put_id) = opts.attributes.get(&Attribute::Metadata(PUT_ID.into())) {
            let put_id: &str = put_id.as_ref();
            if !written.put_ids.iter().any(|known| known == put_id) {
                written.put_ids.push(put_id.to_owned());
            }
        }
        while manifests.len() > REMEMBERED {
            manifests.pop_first();
        }
    }
}

fn manifest_id(path: &Path) -> Option<u64> {
    path.filename()?.strip_suffix(".manifest")?.parse().ok()
}

fn is_wal(path: &Path) -> bool {
    path.parts().rev().nth(1).is_some_and(|folder| folder.as_ref() == "wal")
}

impl fmt::Display for WatchedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let manifest = manifest_id(location);
        if let Some(id) = manifest {
            self.note_attempt(location, id, &opts);
            at(points::MANIFEST_BEFORE);
        }
        let bytes = payload.content_length() as u64;
        let result = self.alive(self.inner.put_opts(location, payload, opts)).await?;
        if manifest.is_some() {
            at(points::MANIFEST_AFTER);
        }
        if let Some(id) = manifest
            && let Some(written) = self.manifests.lock().get_mut(&id)
        {
            written.confirmed = true;
        }
        if is_wal(location) {
            self.wal_objects.fetch_add(1, Ordering::Relaxed);
            self.wal_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive(self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive(self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.alive(self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let stop = self.cut.clone();
        self.inner.delete_stream(locations).take_until(stop.cancelled_owned()).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).take_until(self.cut.clone().cancelled_owned()).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.inner.list_with_offset(prefix, offset);
        listed.take_until(self.cut.clone().cancelled_owned()).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive(self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.alive(self.inner.rename_opts(from, to, options)).await
    }
}
