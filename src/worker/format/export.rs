//! A volume's records in a format of our own, for a program whose engine cannot read this one's.
//!
//! `export/<epoch>/<n>` are pages of pairs, `export/<epoch>/index.json` is written last and names them.
//! An export counts only if its epoch was the volume's last one and was released: then nothing was
//! written after it. Written by whoever closes a volume, as the last thing before the engine is closed;
//! the export before it is deleted then. A crash leaves pages that no index names, which the next
//! export deletes.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::applied;
use crate::clock::Deadline;
use crate::fault::{at, points};
use crate::meta::{Batch, Engine, Meta, Pages};
use crate::store::{Attributes, Listing, Properties, Send, StoreBackend, StoreErrorKind};
use crate::types::{Epoch, KeyPrefix, Lsn, ObjectKey};
use crate::worker::WorkerError;

const FORMAT: u32 = 1;
/// A page is full with so many bytes of keys and values.
const PAGE_BYTES: usize = 4 << 20;
/// Pairs read at a time.
const SCAN: usize = 1000;
/// What a close writes without being asked, bytes: less than a second of a slow line.
pub(in crate::worker) const SMALL: u64 = 8 << 20;
/// And only if there are no more inodes than this, so that nothing large is read in vain.
const FEW: u64 = 20_000;
/// Nor more rows of extents.
const FEW_ROWS: u64 = 20_000;
/// Nor more that was deleted since the mount: a walk goes over that as well, if faster.
const FEW_DELETED: u64 = 200_000;
const REQUEST: Duration = Duration::from_secs(30);

/// `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    format: u32,
    pub epoch: Epoch,
    /// The last batch that it contains.
    pub lsn: Lsn,
    /// The version of the program that wrote it.
    pub plugin: String,
    pub records: u64,
    pages: Vec<Page>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    bytes: u64,
    crc32c: u32,
}

/// How far an export is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub records: u64,
    pub bytes: u64,
}

fn folder(state: &KeyPrefix) -> KeyPrefix {
    state.join("export/")
}

fn of_epoch(state: &KeyPrefix, epoch: Epoch) -> KeyPrefix {
    folder(state).join(&format!("{:020}/", epoch.0))
}

fn page_key(state: &KeyPrefix, epoch: Epoch, number: usize) -> ObjectKey {
    of_epoch(state, epoch).key(&format!("{number:06}"))
}

/// Whether an export takes so little that an unmount does not feel it.
pub(in crate::worker) fn is_small(meta: &Meta) -> bool {
    let counters = meta.superblock();
    counters.inodes <= FEW
        && counters.extents <= FEW_ROWS
        && meta.engine.costs().deletes <= FEW_DELETED
}

/// Writes an export of everything that `engine` holds; nobody may write to it meanwhile. `None` when it
/// would take more than `limit` bytes. Deletes the exports of earlier epochs.
pub(in crate::worker) async fn write(
    engine: &Engine,
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    limit: u64,
    progress: &mut (dyn FnMut(Progress) + std::marker::Send),
) -> Result<Option<u64>, WorkerError> {
    let _receipt = engine.flush(Deadline::after(REQUEST)).await?;
    let epoch = engine.epoch();
    let mut index = Index {
        format: FORMAT,
        epoch,
        lsn: engine.durable_lsn(),
        plugin: env!("CARGO_PKG_VERSION").to_owned(),
        records: 0,
        pages: Vec::new(),
    };
    let mut found = Pages::new((Bound::Unbounded, Bound::Unbounded), SCAN);
    let (mut page, mut size, mut total) = (Vec::new(), 0, 0);
    loop {
        let pairs = found.next(engine).await?;
        let ended = pairs.is_none();
        for pair in pairs.unwrap_or_default() {
            size += pair.0.len() + pair.1.len();
            total += (pair.0.len() + pair.1.len()) as u64;
            index.records += 1;
            page.push(pair);
        }
        if total > limit {
            forget(store, state, None).await?;
            return Ok(None);
        }
        if !page.is_empty() && (ended || size >= PAGE_BYTES) {
            put_page(store, state, &mut index, &std::mem::take(&mut page)).await?;
            size = 0;
            progress(Progress { records: index.records, bytes: total });
        }
        if ended {
            break;
        }
    }
    // A handle that was replaced meanwhile has another epoch, and with it this export means nothing.
    engine.check_epoch(Deadline::after(REQUEST)).await?;
    let body = serde_json::to_vec_pretty(&index).map_err(|e| unreadable(state, epoch, e))?;
    let key = of_epoch(state, epoch).key("index.json");
    let (none, plain) = (Attributes::new(), Properties::default());
    at(points::EXPORT_INDEX_BEFORE);
    applied(store.put(&key, Bytes::from(body), &none, &plain, Send::plain(REQUEST)).await)?;
    at(points::EXPORT_INDEX_AFTER);
    forget(store, state, Some(epoch)).await?;
    Ok(Some(index.records))
}

async fn put_page(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    index: &mut Index,
    pairs: &[(Bytes, Bytes)],
) -> Result<(), WorkerError> {
    let body = postcard::to_stdvec(pairs).map_err(|e| unreadable(state, index.epoch, e))?;
    let key = page_key(state, index.epoch, index.pages.len());
    index.pages.push(Page { bytes: body.len() as u64, crc32c: crc32c::crc32c(&body) });
    let (none, plain) = (Attributes::new(), Properties::default());
    at(points::EXPORT_PAGE_BEFORE);
    let outcome = store.put(&key, Bytes::from(body), &none, &plain, Send::plain(REQUEST)).await;
    at(points::EXPORT_PAGE_AFTER);
    applied(outcome)
}

/// Deletes every export but that of `keep`.
async fn forget(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    keep: Option<Epoch>,
) -> Result<(), WorkerError> {
    let keep = keep.map(|epoch| of_epoch(state, epoch));
    delete_below(store, &folder(state), |key| {
        keep.as_ref().is_none_or(|kept| kept.strip(key).is_none())
    })
    .await
}

/// Deletes what lies below `prefix` and is `unwanted`.
pub(in crate::worker) async fn delete_below(
    store: &dyn StoreBackend,
    prefix: &KeyPrefix,
    unwanted: impl Fn(&ObjectKey) -> bool,
) -> Result<(), WorkerError> {
    let mut pages = Listing::of_keys(prefix.as_str());
    while let Some(page) = pages.next(store, REQUEST).await? {
        for entry in page.entries.iter().filter(|entry| unwanted(&entry.key)) {
            applied(store.delete(&entry.key, Send::plain(REQUEST)).await)?;
        }
    }
    Ok(())
}

/// The export of exactly this epoch, if it is whole.
pub(super) async fn index(
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    epoch: Epoch,
) -> Result<Option<Index>, WorkerError> {
    let key = of_epoch(state, epoch).key("index.json");
    let found = match store.get(&key, None, None, REQUEST).await {
        Ok(found) => found,
        Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let index: Index =
        serde_json::from_slice(&found.data).map_err(|e| unreadable(state, epoch, e))?;
    if index.format != FORMAT || index.epoch != epoch {
        return Err(unreadable(state, epoch, format!("it is of format {}", index.format)));
    }
    Ok(Some(index))
}

/// Writes what an export holds to `engine`, which is empty, and makes it durable.
pub(super) async fn read_into(
    engine: &Engine,
    store: &dyn StoreBackend,
    state: &KeyPrefix,
    index: &Index,
) -> Result<(), WorkerError> {
    let (mut lsn, mut records) = (index.lsn, 0);
    for (number, page) in index.pages.iter().enumerate() {
        let body =
            store.get(&page_key(state, index.epoch, number), None, None, REQUEST).await?.data;
        if body.len() as u64 != page.bytes || crc32c::crc32c(&body) != page.crc32c {
            return Err(unreadable(state, index.epoch, format!("page {number} is damaged")));
        }
        let pairs: Vec<(Bytes, Bytes)> =
            postcard::from_bytes(&body).map_err(|e| unreadable(state, index.epoch, e))?;
        for pairs in pairs.chunks(SCAN) {
            let mut batch = Batch::new();
            for (key, value) in pairs {
                batch.put(key.to_vec(), value.to_vec());
            }
            records += pairs.len() as u64;
            lsn = Lsn(lsn.0 + 1);
            engine.write(lsn, batch).await?;
        }
    }
    if records != index.records {
        let why = format!("{records} of {} records are there", index.records);
        return Err(unreadable(state, index.epoch, why));
    }
    let _receipt = engine.flush(Deadline::after(REQUEST)).await?;
    Ok(())
}

fn unreadable(state: &KeyPrefix, epoch: Epoch, why: impl std::fmt::Display) -> WorkerError {
    WorkerError::Damaged(format!(
        "the export {} cannot be used: {why}",
        of_epoch(state, epoch).as_str()
    ))
}
