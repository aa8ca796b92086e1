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
        // Of the refusals nothing is to be mended.
        let _trying = self.known().trying();
        let (none, plain) = (Attributes::new(), Properties::default());
        let put = |condition| {
            let send = Send { condition, ..Send::plain(TIMEOUT) };
            self.put(key, Bytes::new(), &none, &plain, send)
        };
        let creates = async {
            if !known.has(Verb::CreateIfAbsent) || !taken(put(Condition::Absent).await) {
                return None;
            }
            // It is the first time: from now on something is there.
            taken(put(Condition::Absent).await).then_some(Verb::CreateIfAbsent)
        };
        let replaces = async {
            if !known.has(Verb::PutIfMatch) {
                return None;
            }
            let never = Version {
                etag: uuid::Uuid::new_v4().simple().to_string(),
                size: 0,
                modified: None,
                // The first second of 1970, for Google.
                generation: Some("1".to_owned()),
            };
            taken(put(Condition::Is(never)).await).then_some(Verb::PutIfMatch)
        };
        let (creates, replaces) = futures::join!(creates, replaces);
        creates.or(replaces)
    }
}

fn taken(outcome: PutOutcome) -> bool {
    matches!(outcome, PutOutcome::Won(_))
}
