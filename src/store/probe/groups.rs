//! Whether one request that deletes several keys does what it says, and whether it compares versions first.

use super::{Probe, TIMEOUT};
use crate::store::{Backend, Condition, Doomed, Groups, Knowledge, PutOutcome, StoreError};
use crate::types::KeyPrefix;

/// The first has what XML and URLs write otherwise, the second is a directory's marker.
const MIXED: &str = "group <one> & \"two\" + %20é";
const MARKER: &str = "group/";
const OTHER: &str = "group-other";
pub(super) const KEYS: [&str; 3] = [MIXED, MARKER, OTHER];

/// What a store does with groups, tried out with keys below `scratch`, which are removed again. It is known from then
/// on; that it has none, which may be due to a failure, only for a while.
pub(in crate::store) async fn find_groups(
    store: &dyn Backend,
    known: &Knowledge,
    scratch: &KeyPrefix,
) -> Groups {
    let run = Probe::new(store, known, scratch);
    let found = run.groups().await;
    run.clean(&[&KEYS]).await;
    tracing::info!(?found, "it was tried out whether the store deletes groups of objects");
    let groups = found.unwrap_or(Groups::No);
    match groups {
        Groups::No => known.no_groups(),
        Groups::Plain | Groups::Conditional => known.tried_groups(groups),
    }
    groups
}

impl Probe<'_> {
    /// `None`: the store refused the request.
    async fn group<const N: usize>(&self, of: [(&str, Condition); N]) -> Option<[PutOutcome; N]> {
        let of = of.map(|(name, condition)| Doomed { key: self.key(name), condition });
        let outcomes = self.done(self.store.delete_many(&of, None, TIMEOUT).await)?;
        outcomes.iter().for_each(|outcome| self.consider(outcome));
        outcomes.try_into().ok()
    }

    async fn is_there(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.body(&self.key(name)).await?.is_some())
    }

    pub(super) async fn groups(&self) -> Result<Groups, StoreError> {
        use PutOutcome::{Lost, Won};
        // What is not there is deleted, as by a request for it alone.
        let nothing = self.group([(MIXED, Condition::None), (OTHER, Condition::None)]).await;
        let Some([Won(_), Won(_)]) = nothing else { return Ok(Groups::No) };

        let old = self.write(&self.key(MIXED), "a").await?;
        let new = self.write(&self.key(MIXED), "bb").await?;
        let marker = self.write(&self.key(MARKER), "").await?;
        let other = self.write(&self.key(OTHER), "x").await?;
        let group = [
            (MIXED, Condition::Is(old)),
            (MARKER, Condition::Is(marker)),
            (OTHER, Condition::Is(other)),
        ];
        let compares = matches!(self.group(group).await, Some([Lost, Won(_), Won(_)]))
            && self.is_there(MIXED).await?
            && !self.is_there(MARKER).await?
            && !self.is_there(OTHER).await?;

        self.write(&self.key(OTHER), "stays").await?;
        self.write(&self.key(MARKER), "").await?;
        let condition = if compares {
            Condition::Is(new)
        } else {
            self.write(&self.key(MIXED), "a").await?;
            Condition::None
        };
        let deleted = self.group([(MIXED, condition), (MARKER, Condition::None)]).await;
        let deletes = matches!(deleted, Some([Won(_), Won(_)]))
            && !self.is_there(MIXED).await?
            && !self.is_there(MARKER).await?
            && self.is_there(OTHER).await?;
        if !deletes || !self.groups_expire().await? {
            return Ok(Groups::No);
        }
        Ok(if compares { Groups::Conditional } else { Groups::Plain })
    }

    /// Whether a group that is late is refused, where a single deletion is. What lies at `OTHER` may be gone then.
    async fn groups_expire(&self) -> Result<bool, StoreError> {
        let key = self.key(OTHER);
        let refused = self.store.expired_group(&key, TIMEOUT).await?;
        if self.is_there(OTHER).await? {
            return Ok(refused);
        }
        self.write(&key, "stays").await?;
        let refused = self.store.expired_delete(&key, TIMEOUT).await?;
        Ok(!refused && !self.is_there(OTHER).await?)
    }
}
