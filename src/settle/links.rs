//! Hard links, where the objects tell: the copies of a file under its names all bear its number.
//!
//! Needed when a volume is rebuilt: in a state that knows a file, its names are known.

use std::ops::Bound;
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::attributes::is_ours;
use super::{SettleError, Settler};
use crate::data::Tx;
use crate::meta::records::{ContentRec, InodeRec, RestRec, decode};
use crate::meta::{Logged, keys};
use crate::store::{ObjectInfo, StoreError};
use crate::types::{ATTR_INODE, ATTR_VOLUME, FileKind, Ino, ObjectKey, VolumeId};

const PAGE: usize = 256;
const PARALLEL: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(15);
/// Rows dropped in one batch.
const BATCH: usize = 1000;
/// Files that are named.
const NAMED: usize = 1000;

/// What became of the files whose objects tell that they have several names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Names that lead to the file of another name again.
    pub joined: u64,
    /// Files whose objects do not say of which file they are.
    pub silent: u64,
    /// Keys of copies that are not as the others of their file, so each stays a file of its own; the first ones.
    pub apart: Vec<String>,
}

impl Settler {
    /// Joins the names of files that were adopted one by one. `told` hears how many objects were looked at.
    pub async fn join_links(&self, mut told: impl FnMut(u64) + Send) -> Result<Links, SettleError> {
        let meta = &self.volume.meta;
        let (mut links, mut done) = (Links::default(), 0);
        let (mut from, to) = keys::below(keys::REST, &[]);
        loop {
            let page = meta.scan((from, to.clone()), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = Bound::Excluded(last.to_vec());
            let mut resting = Vec::new();
            for (row, value) in &page {
                let Some(key) = keys::parse_object(row) else { continue };
                let rest: RestRec = decode(value)?;
                let rec: Option<InodeRec> = meta.get(&keys::inode(rest.ino)).await?;
                if rec.is_some_and(|rec| rec.kind != FileKind::Dir) {
                    resting.push((key, rest));
                }
            }
            done += page.len() as u64;
            let asked: Vec<(ObjectKey, RestRec, Result<Option<ObjectInfo>, StoreError>)> =
                stream::iter(resting)
                    .map(|(key, rest)| async move {
                        let info = self.volume.store.head(&key, TIMEOUT).await;
                        (key, rest, info)
                    })
                    .buffered(PARALLEL)
                    .collect()
                    .await;
            let mut tx = self.volume.begin().await?;
            for (key, rest, info) in asked {
                let Some(info) = info? else { continue };
                let Some(row) = former(&info, &key) else {
                    links.silent += 1;
                    continue;
                };
                match tx.kv.get::<Ino>(&row).await? {
                    None => tx.kv.put(row, &rest.ino),
                    Some(first) if first == rest.ino => {}
                    Some(first) if join(&mut tx, first, &key, &rest).await? => links.joined += 1,
                    Some(_) if links.apart.len() < NAMED => links.apart.push(key.to_string()),
                    Some(_) => {}
                }
            }
            tx.commit(0).await?;
            told(done);
        }
        self.forget_former().await?;
        Ok(links)
    }

    async fn forget_former(&self) -> Result<(), SettleError> {
        loop {
            let rows = self.volume.meta.scan(keys::below(keys::FORMER, &[]), BATCH).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut txn = self.volume.meta.begin_bulk().await?;
            for (row, _) in rows {
                txn.delete(row.to_vec());
            }
            txn.commit(Logged::Op { unique: 0 }, || {}).await?;
        }
    }
}

/// Of which file an object was, in the state that put it there.
fn former(info: &ObjectInfo, key: &ObjectKey) -> Option<Vec<u8>> {
    let volume = VolumeId(uuid::Uuid::parse_str(info.attributes.get(ATTR_VOLUME)?).ok()?);
    let ino = info.attributes.get(ATTR_INODE)?.parse().ok()?;
    // A copy that somebody made elsewhere bears the marks of its original.
    is_ours(&info.attributes, key, volume).then(|| keys::former(volume, ino))
}

/// Makes the name whose object lies at `key` a name of `first`; false where the two are not alike: the last
/// publish of one of them was missing when the state was lost.
async fn join(
    tx: &mut Tx<'_>,
    first: Ino,
    key: &ObjectKey,
    rest: &RestRec,
) -> Result<bool, SettleError> {
    let second = rest.ino;
    let (one, other) = (tx.inode(first).await?, tx.inode(second).await?);
    let shown = |rec: &InodeRec| {
        (rec.kind, rec.perm, rec.uid, rec.gid, rec.mtime, rec.rdev, rec.target.clone())
    };
    let content: Option<ContentRec> = tx.kv.get(&keys::content(first)).await?;
    let others: Option<ContentRec> = tx.kv.get(&keys::content(second)).await?;
    let etag = |content: &Option<ContentRec>| {
        let base = content.as_ref().and_then(|content| content.base.as_ref());
        base.map(|base| base.version.etag.clone())
    };
    // Stores give the same bytes different ETags at times; no two writes have the same nanosecond.
    let same_bytes = content.as_ref().map(|c| c.size) == others.as_ref().map(|c| c.size)
        && (etag(&content) == etag(&others) || one.mtime.nanos != 0);
    if shown(&one) != shown(&other) || !same_bytes {
        return Ok(false);
    }
    let names = tx.kv.scan_all(keys::of_inode(keys::PARENT, second)).await?;
    for (row, _) in &names {
        let Some((dir, name)) = keys::parse_parent(row) else { continue };
        let beside = tx.kv.get_raw(&keys::beside(dir, &name)).await?.is_some();
        tx.unlink(dir, &name, second);
        match beside {
            true => tx.link_beside(dir, &name, first, one.kind),
            false => tx.link(dir, &name, first, one.kind),
        }
    }
    let generation = content.map_or(0, |content| content.generation);
    let rest = RestRec { ino: first, generation, attr_gen: one.attr_gen, ..rest.clone() };
    // Before its inode goes, which would have the object tidied.
    tx.kv.put_rest(key, &rest).await?;
    tx.remove(second).await?;
    let more = u32::try_from(names.len()).unwrap_or(u32::MAX);
    tx.edit(first, move |rec| rec.nlink = rec.nlink.saturating_add(more)).await?;
    Ok(true)
}
