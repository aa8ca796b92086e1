//! Two requests that a sound store refuses: what is left of a probe once the store is known.

use std::time::Duration;

use bytes::Bytes;

use super::{Attributes, Capabilities, Condition, Properties, PutOutcome, Send, Store, Verb};
use crate::types::{ObjectKey, Version};

const TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// The verb of `known` that the store no longer honours: create-if-absent where something is, or
    /// If-Match with a version that never was. `key` is for nothing else, and stays. A store that does not
    /// answer is not judged: whatever comes next fails by itself.
    pub async fn overlooks(&self, key: &ObjectKey, known: &Capabilities) -> Option<Verb> {
        self.tried(key, known).await.err().flatten()
    }

    /// Whether the store was seen to refuse both, as far as `known` has them: no answer is no refusal.
    pub async fn honours(&self, key: &ObjectKey, known: &Capabilities) -> bool {
        self.tried(key, known).await.is_ok()
    }

    /// The error is the verb that it no longer honours, if that is sure.
    async fn tried(&self, key: &ObjectKey, known: &Capabilities) -> Result<(), Option<Verb>> {
        // Of the refusals nothing is to be mended.
        let _trying = self.known().trying();
        let (none, plain) = (Attributes::new(), Properties::default());
        let put = |condition| {
            let send = Send { condition, ..Send::plain(TIMEOUT) };
            self.put(key, Bytes::new(), &none, &plain, send)
        };
        let creates = async {
            if !known.has(Verb::CreateIfAbsent) {
                return Ok(());
            }
            match judged(put(Condition::Absent).await, Verb::CreateIfAbsent) {
                // It is the first time: from now on something is there.
                Err(Some(verb)) => judged(put(Condition::Absent).await, verb),
                judged => judged,
            }
        };
        let replaces = async {
            if !known.has(Verb::PutIfMatch) {
                return Ok(());
            }
            let never = Version {
                etag: uuid::Uuid::new_v4().simple().to_string(),
                size: 0,
                modified: None,
                // The first second of 1970, for Google.
                generation: Some("1".to_owned()),
            };
            judged(put(Condition::Is(never)).await, Verb::PutIfMatch)
        };
        match futures::join!(creates, replaces) {
            (Err(Some(verb)), _) | (_, Err(Some(verb))) => Err(Some(verb)),
            (creates, replaces) => creates.and(replaces),
        }
    }
}

fn judged(outcome: PutOutcome, verb: Verb) -> Result<(), Option<Verb>> {
    match outcome {
        PutOutcome::Lost => Ok(()),
        PutOutcome::Won(_) => Err(Some(verb)),
        PutOutcome::Failed(_) | PutOutcome::Ambiguous(_) => Err(None),
    }
}
