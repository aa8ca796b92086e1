//! The tables of one manifest, read through SlateDB's reader.
//!
//! The reader is told to follow and to read no log, and given a clock on which its next look never
//! comes: so it stays with the manifest that it was opened at, and writes nothing.

use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use slatedb::config::DbReaderOptions;
use slatedb::db_cache::DbCache;
use slatedb::object_store::ObjectStore;
use slatedb::{DbReader, DbReaderMode, VersionedManifest};
use slatedb_common::clock::{SystemClock, SystemClockTicker};

use crate::meta::engine::{EngineError, filters, scan};

/// Attempts of one request by the reader; the store below has its own, with deadlines.
const RETRIES: u32 = 2;
/// One lookup, requests to the bucket included.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Tables {
    reader: Arc<DbReader>,
    manifest: VersionedManifest,
    /// Where the reader is ended, whichever thread lets go of it last.
    runtime: tokio::runtime::Handle,
}

impl Tables {
    /// The tables of the newest manifest.
    pub async fn open(
        store: &Arc<dyn ObjectStore>,
        path: &str,
        cache: &Arc<dyn DbCache>,
    ) -> Result<Arc<Tables>, EngineError> {
        let options = DbReaderOptions {
            skip_wal_replay: true,
            object_store_max_retries: Some(RETRIES),
            ..DbReaderOptions::default()
        };
        let reader = DbReader::builder(path.to_owned(), Arc::clone(store))
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(options)
            .with_db_cache(Arc::clone(cache), 0)
            .with_filter_policies(filters())
            .with_system_clock(Arc::new(ReaderClock))
            .build()
            .await
            .map_err(EngineError::from_slate)?;
        let manifest = reader.manifest();
        let runtime = tokio::runtime::Handle::current();
        Ok(Arc::new(Tables { reader: Arc::new(reader), manifest, runtime }))
    }

    pub fn manifest(&self) -> u64 {
        self.manifest.id()
    }

    /// The last row that lies in tables.
    pub fn last_seq(&self) -> u64 {
        self.manifest.last_l0_seq()
    }

    /// Everything up to this object of the log lies in tables.
    pub fn log_starts_after(&self) -> u64 {
        self.manifest.replay_after_wal_id()
    }

    /// The log had no object of this number when the manifest was written.
    pub fn log_ends_before(&self) -> u64 {
        self.manifest.next_wal_sst_id()
    }

    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match tokio::time::timeout(LIMIT, self.reader.get(key)).await {
            Ok(value) => value.map_err(EngineError::from_slate),
            Err(_) => Err(EngineError::Deadline),
        }
    }

    pub async fn scan(
        &self,
        from: &Bound<Vec<u8>>,
        to: &Bound<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        match tokio::time::timeout(LIMIT, scan(&*self.reader, from, to, limit)).await {
            Ok(pairs) => pairs.map_err(EngineError::from_slate),
            Err(_) => Err(EngineError::Deadline),
        }
    }
}

impl Drop for Tables {
    /// A reader that is only dropped would leave its task behind.
    fn drop(&mut self) {
        let reader = Arc::clone(&self.reader);
        self.runtime.spawn(async move {
            if let Err(error) = reader.close().await {
                tracing::debug!(%error, "a reader of tables did not end well");
            }
        });
    }
}

/// Now as the host says it, since nothing that we store expires; and tickers that never tick.
#[derive(Debug)]
struct ReaderClock;

impl SystemClock for ReaderClock {
    fn now(&self) -> DateTime<Utc> {
        let now = crate::clock::now();
        DateTime::from_timestamp(now.secs, now.nanos).unwrap_or_default()
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(&Never, duration)
    }
}

/// A clock on which nothing ever happens.
#[derive(Debug)]
struct Never;

impl SystemClock for Never {
    fn now(&self) -> DateTime<Utc> {
        // What a new ticker takes for its last tick.
        DateTime::<Utc>::MIN_UTC
    }

    fn sleep<'a>(&'a self, _duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::pending())
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}
