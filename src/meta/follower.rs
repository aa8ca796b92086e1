//! Following a database that another host writes, by reading alone.
//!
//! A [`View`] is one durable state of it: the tables of one manifest, and over them the rows that
//! the log brought since. It never changes, so that records read from one view belong together.
//! [`Follower::poll`] makes the next view; readers that still have the former one keep it.
//!
//! SlateDB's own reader would follow too, with nine requests a look and without saying when it
//! looked. Ours asks for the log's next object, one HEAD, and for a new manifest now and then.
//!
//! Nothing here writes, not even a checkpoint, so the writer's collector knows nothing of us: a file
//! that an old view needs may be gone. Whoever meets that takes the newest view and tries again.

mod overlay;
mod tables;
#[cfg(test)]
mod tests;

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::RwLock;
use slatedb::admin::AdminBuilder;
use slatedb::db_cache::DbCache;
use slatedb::object_store::{self, ObjectStore};
use slatedb::{ValueDeletable, WalReader};

use self::overlay::{Overlay, Row};
use self::tables::Tables;
use super::engine::{
    EngineError, Mirror, RESERVED_KEY, guarded, is_empty_range, table_cache, through_mirror,
};
use crate::clock::{self, Deadline, boottime};

/// How long rows of the log may gather before a manifest is looked for that has them in tables.
const MANIFEST_AGE: Duration = Duration::from_secs(60);
/// The same when none came: only to notice a volume that is gone.
const IDLE_MANIFEST_AGE: Duration = Duration::from_secs(240);
/// The log is kept for five minutes by the bucket's clock, so that until then its end is where an object is missing.
/// After a longer pause than this (a host that slept) the manifest says where it starts now.
const LONG_PAUSE: Duration = Duration::from_secs(120);
/// Objects of the log read at a time, when there are many.
const PARALLEL: usize = 16;

/// One durable state. Cheap to clone.
#[derive(Clone)]
pub struct View {
    tables: Arc<Tables>,
    rows: Overlay,
    /// The last row that this state holds.
    seq: u64,
    /// Counts the states that this follower has seen.
    number: u64,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl View {
    /// Later states have greater numbers; equal numbers are the same state.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The manifest of its tables. What a newer one replaced may be gone.
    pub fn manifest(&self) -> u64 {
        self.tables.manifest()
    }

    /// The value of a key.
    pub async fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.rows.get(key) {
            Some(row) => Ok(row.value.clone()),
            None => guarded(self.tables.get(key)).await,
        }
    }

    /// The first `limit` pairs of a range in ascending order of keys.
    pub async fn scan(
        &self,
        mut from: Bound<Vec<u8>>,
        to: Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let mut found = Vec::new();
        if is_empty_range(&from, &to) {
            return Ok(found);
        }
        loop {
            let want = limit - found.len();
            let page = guarded(self.tables.scan(&from, &to, want)).await?;
            let more = page.len() >= want;
            let last = page.last().map(|(key, _)| key.to_vec());
            // Beyond a cut-off page nothing is known of the tables yet.
            let known = match (&last, more) {
                (Some(last), true) => Bound::Included(last.clone()),
                _ => to.clone(),
            };
            self.rows.merge(page, (&from, &known), limit, &mut found);
            match last {
                Some(last) if more && found.len() < limit => from = Bound::Excluded(last),
                _ => return Ok(found),
            }
        }
    }
}

/// Where the follower stands.
struct Cursor {
    /// The next object of the log.
    next: u64,
    polled: Duration,
    /// The wall clock then, seconds: it goes on where a machine was stopped from outside.
    polled_wall: i64,
    manifest_read: Duration,
    /// Rows came since the manifest was read.
    grown: bool,
}

/// See the module.
pub struct Follower {
    store: Arc<dyn ObjectStore>,
    /// The same through local copies of tables.
    mirrored: Arc<dyn ObjectStore>,
    path: String,
    cache: Arc<dyn DbCache>,
    log: WalReader,
    view: RwLock<Arc<View>>,
    /// One look at a time.
    cursor: tokio::sync::Mutex<Cursor>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Follower {
    /// Opens the newest state; `None` when nobody ever wrote one. Tables are kept in `mirror`.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        path: &str,
        mirror: Option<Mirror>,
        deadline: Deadline,
    ) -> Result<Option<Follower>, EngineError> {
        let open = async {
            let found = newest_manifest(&store, path).await?;
            if found.is_none() {
                return Ok(None);
            }
            let cache = table_cache();
            let mirrored = match mirror {
                Some(mirror) => through_mirror(mirror, Arc::clone(&store)).await?,
                None => Arc::clone(&store),
            };
            let tables = Tables::open(&mirrored, path, &cache).await?;
            let next = tables.log_starts_after() + 1;
            let view = View { seq: tables.last_seq(), tables, rows: Overlay::default(), number: 1 };
            let now = boottime();
            let cursor = Cursor {
                next,
                polled: now,
                polled_wall: clock::now().secs,
                manifest_read: now,
                grown: false,
            };
            let follower = Follower {
                log: WalReader::new(path.to_owned(), Arc::clone(&store)),
                path: path.to_owned(),
                store,
                mirrored,
                cache,
                view: RwLock::new(Arc::new(view)),
                cursor: tokio::sync::Mutex::new(cursor),
            };
            // The manifest once more: what the log had when it was read first may have gone to tables since.
            follower.look(&mut *follower.cursor.lock().await, true).await?;
            Ok(Some(follower))
        };
        let open = tokio::time::timeout(deadline.left(), guarded(open));
        open.await.unwrap_or(Err(EngineError::Deadline))
    }

    /// How far the log goes: the number of the first object that was not there when it was looked for, and
    /// that of the first one which the newest manifest does not know to be there.
    pub async fn log_end(&self) -> (u64, u64) {
        let next = self.cursor.lock().await.next;
        (next, self.view().tables.log_ends_before())
    }

    /// The newest state that was seen.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Looks for what was written since, and returns the newest state. Callers that come while one
    /// is looking share the next look.
    pub async fn poll(&self, deadline: Deadline) -> Result<Arc<View>, EngineError> {
        self.bring_up_to_date(deadline, false).await
    }

    /// Like [`Follower::poll`], and reads the manifest in any case: for a reader that met a file
    /// which is gone.
    pub async fn renew(&self, deadline: Deadline) -> Result<Arc<View>, EngineError> {
        self.bring_up_to_date(deadline, true).await
    }

    async fn bring_up_to_date(
        &self,
        deadline: Deadline,
        manifest: bool,
    ) -> Result<Arc<View>, EngineError> {
        let asked = boottime();
        let look = async {
            let mut cursor = self.cursor.lock().await;
            let read = if manifest { cursor.manifest_read } else { cursor.polled };
            if read < asked {
                self.look(&mut cursor, manifest).await?;
            }
            Ok(self.view())
        };
        let look = tokio::time::timeout(deadline.left(), guarded(look));
        look.await.unwrap_or(Err(EngineError::Deadline))
    }

    async fn look(&self, cursor: &mut Cursor, manifest: bool) -> Result<(), EngineError> {
        let (began, began_wall) = (boottime(), clock::now().secs);
        self.read_log(cursor).await?;
        // While it was read, too.
        let slept = boottime().saturating_sub(cursor.polled) > LONG_PAUSE
            || clock::now().secs.abs_diff(cursor.polled_wall) > LONG_PAUSE.as_secs();
        let age = if cursor.grown { MANIFEST_AGE } else { IDLE_MANIFEST_AGE };
        let due = began.saturating_sub(cursor.manifest_read) > age;
        if manifest || slept || due {
            self.read_manifest(cursor).await?;
            cursor.manifest_read = began;
        }
        (cursor.polled, cursor.polled_wall) = (began, began_wall);
        Ok(())
    }

    /// Takes in the log's new objects, each of which holds whole batches.
    async fn read_log(&self, cursor: &mut Cursor) -> Result<(), EngineError> {
        let mut ahead = 1;
        loop {
            let ids = cursor.next..cursor.next + ahead as u64;
            let mut objects = stream::iter(ids).map(|id| self.log_object(id)).buffered(ahead);
            let mut view = View::clone(&self.view());
            let tables_end = view.tables.last_seq();
            let mut read = 0;
            while let Some(Some(rows)) = objects.try_next().await? {
                read += 1;
                for row in rows.into_iter().filter(|row| row.seq > tables_end) {
                    view.seq = view.seq.max(row.seq);
                    view.rows.put(row.key, Row { seq: row.seq, value: row.value });
                }
            }
            if read > 0 {
                // Together, without waiting in between: this future may be dropped while it waits.
                cursor.next += read as u64;
                cursor.grown = true;
                self.show(view);
            }
            if read < ahead {
                return Ok(());
            }
            ahead = (ahead * 2).min(PARALLEL);
        }
    }

    async fn log_object(&self, id: u64) -> Result<Option<Vec<LogRow>>, EngineError> {
        let gone = |error: slatedb::Error| match is_not_found(&error) {
            true => Ok(None),
            false => Err(EngineError::from_slate(error)),
        };
        let mut iterator = match self.log.get(id).iterator().await {
            Ok(iterator) => iterator,
            Err(error) => return gone(error),
        };
        let mut rows = Vec::new();
        loop {
            match iterator.next().await {
                Ok(Some(entry)) => {
                    let value = match entry.value {
                        ValueDeletable::Value(value) => Some(value),
                        ValueDeletable::Tombstone => None,
                        ValueDeletable::Merge(_) => {
                            let what = std::io::Error::other("a merge row in the log");
                            return Err(EngineError::Damaged(Arc::new(what)));
                        }
                    };
                    rows.push(LogRow { seq: entry.seq, key: entry.key, value });
                }
                Ok(None) => return Ok(Some(rows)),
                Err(error) => return gone(error),
            }
        }
    }

    /// Goes over to the newest tables, if there are newer ones.
    async fn read_manifest(&self, cursor: &mut Cursor) -> Result<(), EngineError> {
        loop {
            let Some(manifest) = newest_manifest(&self.store, &self.path).await? else {
                let gone = std::io::Error::other("the volume's metadata is gone from the bucket");
                return Err(EngineError::Damaged(Arc::new(gone)));
            };
            let mut view = View::clone(&self.view());
            if manifest <= view.tables.manifest() {
                cursor.grown = false;
                return Ok(());
            }
            view.tables = Tables::open(&self.mirrored, &self.path, &self.cache).await?;
            // What lies in tables need not be kept; what came later is in the rows already, because the
            // log was read from before these tables to its end.
            let end = view.tables.last_seq();
            view.rows.drop_through(end);
            view.seq = view.seq.max(end);
            let start = view.tables.log_starts_after() + 1;
            let jumped = start > cursor.next;
            cursor.next = cursor.next.max(start);
            cursor.grown = false;
            self.show(view);
            // If the tables were ahead of the log as it was read, there may be more of it.
            self.read_log(cursor).await?;
            // Old objects of the log, which these tables need, may have gone to newer ones meanwhile.
            if !jumped {
                return Ok(());
            }
        }
    }

    fn show(&self, mut view: View) {
        let mut shown = self.view.write();
        view.number = shown.number + 1;
        *shown = Arc::new(view);
    }
}

struct LogRow {
    seq: u64,
    key: Bytes,
    value: Option<Bytes>,
}

async fn newest_manifest(
    store: &Arc<dyn ObjectStore>,
    path: &str,
) -> Result<Option<u64>, EngineError> {
    let admin = AdminBuilder::new(path.to_owned(), Arc::clone(store)).build();
    let manifest = admin.read_manifest(None).await.map_err(EngineError::from_slate)?;
    Ok(manifest.map(|manifest| manifest.id()))
}

/// Whether an object was missing.
fn is_not_found(error: &slatedb::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let found = error
            .downcast_ref::<object_store::Error>()
            .or_else(|| error.downcast_ref::<Arc<object_store::Error>>().map(Arc::as_ref));
        if matches!(found, Some(object_store::Error::NotFound { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The engine keeps this one for itself.
fn is_hidden(key: &[u8]) -> bool {
    key == RESERVED_KEY
}
