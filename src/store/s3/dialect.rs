//! How a store wants ETags in conditions, and finding that out where it matters.
//!
//! HTTP has them in quotes. Ceph RGW 16 takes the quotes for a part of the ETag, so that no condition
//! with them ever holds. A refusal is therefore looked into: if the object still is what the condition
//! named, the other spelling is tried, and kept where it proves right.

use super::{Call, S3Store, quoted};
use crate::store::wire::Answer;
use crate::store::{Condition, PutOutcome, Send, StoreBackend};
use crate::types::{ObjectKey, Version};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    Quoted,
    Bare,
}

impl Spelling {
    /// An ETag in a condition.
    pub fn write(self, etag: &str) -> String {
        match self {
            Spelling::Quoted => quoted(etag),
            Spelling::Bare => etag.to_owned(),
        }
    }

    fn other(self) -> Self {
        match self {
            Spelling::Quoted => Spelling::Bare,
            Spelling::Bare => Spelling::Quoted,
        }
    }
}

impl S3Store {
    pub(super) fn spelling(&self) -> Spelling {
        if self.known.is_bare() { Spelling::Bare } else { Spelling::Quoted }
    }

    /// A PUT whose condition is sent in the other spelling as well if it was refused although it holds.
    pub(super) async fn put_matching(
        &self,
        call: Call<'_>,
        send: &Send,
        won: impl Fn(&Answer) -> Version,
    ) -> PutOutcome {
        let spelling = self.spelling();
        let outcome = self.change_as(call.clone(), send, spelling, &won).await;
        let (PutOutcome::Lost, Condition::Is(version), Some(key)) =
            (&outcome, &send.condition, call.key)
        else {
            return outcome;
        };
        if !self.known.mends() {
            return outcome;
        }
        let there = self.head(&ObjectKey::new(key), send.timeout).await;
        if !matches!(there, Ok(Some(info)) if info.version.same(version)) {
            return PutOutcome::Lost;
        }
        let other = spelling.other();
        let again = self.change_as(call.clone(), send, other, &won).await;
        if let PutOutcome::Won(written) = &again {
            // A store that overlooks this spelling would have taken the request as well. It must
            // refuse the version of before; if it does not, the same bytes were written twice.
            let stale = self.change_as(call, send, other, &won).await;
            match stale {
                PutOutcome::Lost if written.etag != version.etag => {
                    self.known.spelled(other == Spelling::Bare);
                }
                PutOutcome::Won(latest) => return PutOutcome::Won(latest),
                PutOutcome::Lost | PutOutcome::Failed(_) | PutOutcome::Ambiguous(_) => {}
            }
        }
        again
    }
}
