//! The rows of a volume: FORMAT.md's table of keys, over the engine's own reader.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use slatedb::config::DbReaderOptions;
use slatedb::object_store::ObjectStore;
use slatedb::{DbIterator, DbReader, DbReaderMode};

use super::Trouble;

/// What was opened is what is proven: newer states are not looked for.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
const RETRIES: u32 = 3;

/// The newest state of the records that lies in the bucket.
pub struct Rows(DbReader);

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rows")
    }
}

/// A key: the table, then numbers, big-endian, then bytes.
pub(super) fn key(table: u8, numbers: &[u64], rest: &[u8]) -> Vec<u8> {
    let mut key = vec![table];
    for number in numbers {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key.extend_from_slice(rest);
    key
}

/// The place of a name among those of its directory: FNV-1a of 64 bits, its upper half folded into the lower one,
/// times 9e3779b97f4a7c15, without its lowest two bits; at least 3.
pub(super) fn cookie(name: &[u8]) -> u64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2).max(3)
}

/// A record of a row: `what` it is of names it where it cannot be read.
pub(super) fn record<T: DeserializeOwned>(value: &[u8], what: &str) -> Result<T, Trouble> {
    postcard::from_bytes(value)
        .map_err(|error| Trouble::This(format!("the record of {what} cannot be read: {error}")))
}

impl Rows {
    /// Opens the database in `folder` of `store`. Writes nothing.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn open(store: Arc<dyn ObjectStore>, folder: &str) -> Result<Rows, slatedb::Error> {
        let options = DbReaderOptions {
            manifest_poll_interval: NEVER,
            object_store_max_retries: Some(RETRIES),
            ..DbReaderOptions::default()
        };
        let reader = DbReader::builder(folder.to_owned(), store)
            .with_reader_mode(DbReaderMode::FollowLatest)
            .with_options(options)
            .build()
            .await?;
        Ok(Rows(reader))
    }

    /// Ends the reader's task.
    pub async fn close(self) {
        if let Err(error) = self.0.close().await {
            tracing::debug!(%error, "the reader of the records did not end well");
        }
    }

    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Trouble> {
        Ok(self.0.get(key).await?)
    }

    pub(super) async fn get_record<T: DeserializeOwned>(
        &self,
        key: &[u8],
        what: &str,
    ) -> Result<Option<T>, Trouble> {
        self.get(key).await?.map(|value| record(&value, what)).transpose()
    }

    /// The rows whose keys start with `prefix`, in order.
    pub(super) async fn below(&self, prefix: Vec<u8>) -> Result<DbIterator, Trouble> {
        Ok(self.0.scan_prefix(prefix, ..).await?)
    }
}
