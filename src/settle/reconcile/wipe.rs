//! A prefix that was emptied from outside.
//!
//! An object that somebody deletes takes its file along. But a prefix without a single key, where many
//! files were at rest, is what a `sync --delete` from the wrong folder or a wrong endpoint leaves, and a
//! volume that believed it would be empty when the objects come back. So nothing is removed then: names
//! and attributes stay, content in the cache can be read, and the status says what happened.

use super::{Reconciler, USE_TIMEOUT};
use crate::meta::keys;
use crate::settle::SettleError;
use crate::store::ListRequest;
use crate::types::FileName;

/// So many files may go together with the last key.
const FEW: usize = 10;

impl Reconciler {
    /// The names of `vanished` that may go: all of them, or none of a prefix that was emptied.
    pub(super) async fn believed(
        &self,
        vanished: Vec<FileName>,
    ) -> Result<Vec<FileName>, SettleError> {
        if vanished.is_empty() || !self.was_emptied().await? {
            return Ok(vanished);
        }
        let what = format!(
            "everything below {} is gone from the bucket, and nothing of it was removed here: bring the \
             objects back, or delete the files here or the volume if that was meant",
            self.volume.options.url
        );
        tracing::error!(missing = vanished.len(), "{what}");
        self.volume.note_error(&what);
        Ok(Vec::new())
    }

    async fn was_emptied(&self) -> Result<bool, SettleError> {
        let at_rest = self.volume.meta.scan(keys::below(keys::REST, &[]), FEW + 1).await?;
        if at_rest.len() <= FEW {
            return Ok(false);
        }
        let any = ListRequest {
            prefix: self.volume.prefix.as_str().to_owned(),
            delimiter: false,
            token: None,
            // The state of volumes may lie below a prefix that is a whole bucket.
            max_keys: 1000,
        };
        let page = self.volume.store.list(any, USE_TIMEOUT).await?;
        let ours = |key: &str| !key.starts_with(".s3vol/") && !key.contains("/.s3vol/");
        Ok(page.next.is_none() && !page.entries.iter().any(|entry| ours(entry.key.as_str())))
    }
}
