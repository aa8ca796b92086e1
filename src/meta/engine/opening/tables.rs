//! The engine's tables while a volume is opened: what the first lookups need of them is fetched while the lease is
//! judged.
//!
//! Nobody changes a table. One that is collected meanwhile belongs to an old view, whose claim is refused.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use slatedb::VersionedManifest;
use slatedb::manifest::SsTableInfo;
use slatedb::object_store::{
    Attributes, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, Result, path::Path,
};

use super::whole;
use crate::meta::engine::handle::MIRROR_PART;

/// So many parts are fetched: the tables of some thousand files, or indexes and filters of larger ones.
const MOST_PARTS: usize = 4;

#[derive(Debug, Clone)]
struct Fetched {
    meta: ObjectMeta,
    attributes: Attributes,
    range: Range<u64>,
    body: Bytes,
}

type Part = Shared<BoxFuture<'static, Option<Fetched>>>;

/// Parts by table and number.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables(Arc<Mutex<HashMap<(Path, u64), Part>>>);

impl Tables {
    /// Begins to fetch from the tables that `manifest` names.
    pub fn fetch(
        store: &Arc<dyn ObjectStore>,
        folder: &Path,
        manifest: &VersionedManifest,
    ) -> Self {
        let merged = manifest.compacted().iter().flat_map(|run| run.sst_views());
        let tables = manifest.l0().iter().chain(merged);
        let tables: HashMap<Path, &SsTableInfo> = tables
            .map(|view| {
                (folder.clone().join(format!("{}.sst", view.sst.id.value())), &view.sst.info)
            })
            .collect();
        let all: usize = tables.values().map(|info| parts(0..end(info)).count()).sum();
        let mut wanted = BTreeSet::new();
        for (path, info) in tables {
            let of_table: Vec<u64> = match all <= MOST_PARTS {
                true => parts(0..end(info)).collect(),
                // Where the first rows are, and what tells where others are.
                false => parts(0..1).chain(index(info)).collect(),
            };
            wanted.extend(of_table.into_iter().map(|part| (path.clone(), part)));
        }
        let begun = wanted.into_iter().take(MOST_PARTS).map(|(path, number)| {
            let (store, location) = (Arc::clone(store), path.clone());
            // An error is met again by who asks for it.
            let fetch = async move { fetch(&*store, &location, number).await.ok() };
            let part = fetch.boxed().shared();
            tokio::spawn(part.clone());
            ((path, number), part)
        });
        Tables(Arc::new(Mutex::new(begun.collect())))
    }

    /// One part, once: who asks again did not like it.
    pub async fn get(&self, location: &Path, range: &GetRange) -> Option<Result<GetResult>> {
        let GetRange::Bounded(range) = range else { return None };
        let number = range.start / PART;
        if *range != range_of(number) {
            return None;
        }
        let part = self.0.lock().remove(&(location.clone(), number))?;
        let Fetched { meta, attributes, range, body } = part.await?;
        let extensions = Default::default();
        Some(Ok(GetResult { payload: whole(body), meta, range, attributes, extensions }))
    }
}

const PART: u64 = MIRROR_PART as u64;

fn range_of(part: u64) -> Range<u64> {
    part * PART..(part + 1) * PART
}

/// The parts that `range` touches.
fn parts(range: Range<u64>) -> Range<u64> {
    range.start / PART..range.end.div_ceil(PART)
}

fn index(info: &SsTableInfo) -> impl Iterator<Item = u64> {
    let index = info.index_offset..info.index_offset.saturating_add(info.index_len);
    let filter = info.filter_offset..info.filter_offset.saturating_add(info.filter_len);
    parts(index).chain(parts(filter))
}

fn end(info: &SsTableInfo) -> u64 {
    let index = info.index_offset.saturating_add(info.index_len);
    let filter = info.filter_offset.saturating_add(info.filter_len);
    index.max(filter)
}

async fn fetch(store: &dyn ObjectStore, location: &Path, number: u64) -> Result<Fetched> {
    let range = Some(GetRange::Bounded(range_of(number)));
    let got = store.get_opts(location, GetOptions { range, ..GetOptions::default() }).await?;
    let (meta, attributes, range) = (got.meta.clone(), got.attributes.clone(), got.range.clone());
    Ok(Fetched { meta, attributes, range, body: got.bytes().await? })
}
