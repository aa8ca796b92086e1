//! The lease records beside the engine's epoch, and whether the engine's log is all there.

use super::{Check, FsckError, Kind, Mend, REQUEST};
use crate::lease::{LeaseRecord, record_key};
use crate::store::{Listing, StoreErrorKind};
use crate::types::Epoch;

impl Check<'_> {
    /// Objects of the engine's log that are missing end it without a word: what came later would be gone, and
    /// all that is judged by it would seem wrong.
    pub(super) async fn log_is_whole(&mut self) -> Result<bool, FsckError> {
        if self.how.in_use {
            return Ok(true);
        }
        let (next, promised) = self.follower.log_end().await;
        let prefix = self.parts.state.key(&format!("{}/wal/", self.parts.folder));
        let mut last = 0;
        let mut pages = Listing::of_keys(prefix.as_str());
        while let Some(page) = pages.next(&*self.parts.state_store, REQUEST).await? {
            for entry in page.entries {
                let name = entry.key.as_str().strip_prefix(prefix.as_str());
                let id = name.and_then(|name| name.strip_suffix(".sst")?.parse().ok());
                last = last.max(id.unwrap_or(0));
            }
        }
        if next >= promised && next > last {
            return Ok(true);
        }
        let detail = format!("the log ends before {next:020}.sst, and there was more of it");
        let cure = Mend::No("restore the objects that are missing there, or `s3vol rebuild`");
        self.report.found(Kind::Engine, prefix.to_string(), detail, cure);
        self.report.cannot_judge("everything else: the records are older than what they speak of");
        Ok(false)
    }

    pub(super) async fn leases(&mut self) -> Result<(), FsckError> {
        self.begin("leases");
        let (store, state) = (&*self.parts.state_store, &self.parts.state);
        let prefix = state.key("lease/");
        let mut last = None;
        let mut pages = Listing::of_keys(prefix.as_str());
        while let Some(page) = pages.next(store, REQUEST).await? {
            for entry in page.entries {
                let name = entry.key.as_str().strip_prefix(prefix.as_str());
                last = last.max(name.and_then(|name| name.parse().ok()).map(Epoch));
            }
        }
        // Whoever claims an epoch writes its record next.
        if let Some(last) = last.filter(|last| *last > self.parts.epoch && !self.how.in_use) {
            let detail = format!("is of a later epoch than the records, {}", self.parts.epoch);
            let cure = Mend::No(
                "the records may be an old copy: restore the state as a whole, or `s3vol rebuild`",
            );
            self.report.found(Kind::Lease, record_key(state, last).to_string(), detail, cure);
        }
        let key = record_key(state, self.parts.epoch);
        match store.get(&key, None, None, REQUEST).await {
            Ok(found) => {
                if let Err(error) = serde_json::from_slice::<LeaseRecord>(&found.data) {
                    let cure =
                        Mend::No("delete this object; the next mount then waits for a minute");
                    let detail = format!("cannot be read, so nobody can mount: {error}");
                    self.report.found(Kind::Lease, key.to_string(), detail, cure);
                }
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
