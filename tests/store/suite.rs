//! The suite that every store must pass.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use s3vol::store::{
    Attributes, Condition, Groups, ListRequest, Part, Properties, PutOutcome, Send, Store,
    StoreError,
};
use s3vol::types::{KeyPrefix, ObjectKey, StoreTime, Version};

use super::{TIMEOUT, conditions, keys, objects, properties};

/// The first part of an upload.
pub const FIRST: Part = Part { number: 1, offset: 0 };

/// What a store is known to be unable to do. Everything else must work.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// Exactly one of several parallel creates wins.
    pub parallel_creates: bool,
    /// Refuses a request after its expiry.
    pub expiry: bool,
    /// Who loses a race of creations may be answered an error that says nothing.
    pub vague_races: bool,
    /// `If-Match` on a DELETE.
    pub conditional_delete: bool,
    /// Conditions on the target of a copy.
    pub conditional_copy: bool,
    /// A copy is refused when its source is no longer the expected version.
    pub conditional_source: bool,
    /// `If-None-Match` on the completion of a multipart upload.
    pub complete_if_absent: bool,
    /// `If-Match` on the completion of a multipart upload.
    pub complete_if_match: bool,
    /// Keys are one name of up to 1,024 bytes, not path components of up to 255.
    pub long_names: bool,
    /// Keys that end in `/` may have content.
    pub marker_bodies: bool,
    /// Objects of any name can be copied.
    pub copies_any_name: bool,
    /// An aborted upload cannot be completed.
    pub aborts: bool,
    /// Metadata names may be any that a header can have.
    pub foreign_names: bool,
    /// Keeps `Expires` and a website redirect.
    pub redirects: bool,
    pub tags: bool,
    /// A copy gets the headers that were asked for, not the source's.
    pub copies_headers: bool,
    /// A storage class that it keeps and tells.
    pub class: Option<&'static str>,
    /// GET tells the class too, not HEAD alone.
    pub get_tells_class: bool,
    /// Keeps and tells encryption.
    pub encryption: bool,
    /// A completed upload cannot be completed again.
    pub uploads_end: bool,
    /// What one request that deletes several keys does.
    pub groups: Groups,
}

impl Traits {
    pub const FULL: Traits = Traits {
        parallel_creates: true,
        expiry: true,
        vague_races: false,
        conditional_delete: true,
        conditional_copy: true,
        conditional_source: true,
        complete_if_absent: true,
        complete_if_match: true,
        long_names: true,
        marker_bodies: true,
        copies_any_name: true,
        aborts: true,
        foreign_names: true,
        redirects: true,
        tags: true,
        copies_headers: true,
        class: Some("STANDARD_IA"),
        get_tells_class: true,
        encryption: true,
        uploads_end: true,
        groups: Groups::Conditional,
    };

    /// moto 5.2.5 checks and sets without a lock, and does not look at expiries nor at conditions
    /// of a copy. Of those of a completion it knows `If-None-Match` alone.
    pub const MOTO: Traits = Traits {
        parallel_creates: false,
        expiry: false,
        conditional_copy: false,
        conditional_source: false,
        complete_if_match: false,
        uploads_end: false,
        groups: Groups::Plain,
        ..Traits::FULL
    };

    /// Ceph RGW 16.
    pub const GATEWAY: Traits = Traits {
        vague_races: true,
        conditional_delete: false,
        conditional_copy: false,
        conditional_source: false,
        complete_if_absent: false,
        complete_if_match: false,
        groups: Groups::Plain,
        ..Traits::FULL
    };

    /// A directory holds keys as plain files.
    pub const FILE: Traits =
        Traits { long_names: false, marker_bodies: false, groups: Groups::No, ..Traits::FULL };

    /// Google overlooks conditions on a completion, so none can be given.
    pub const GOOGLE: Traits = Traits {
        complete_if_absent: false,
        complete_if_match: false,
        redirects: false,
        tags: false,
        class: Some("NEARLINE"),
        groups: Groups::No,
        encryption: false,
        ..Traits::FULL
    };

    /// Azure takes no name that needs encoding as the source of a copy, and has no way to take
    /// blocks back that were not committed.
    pub const AZURITE: Traits = Traits {
        copies_any_name: false,
        aborts: false,
        foreign_names: false,
        redirects: false,
        copies_headers: false,
        class: Some("Cool"),
        groups: Groups::No,
        get_tells_class: false,
        encryption: false,
        ..Traits::FULL
    };
}

/// A store below a prefix of its own, with the shorthand of the steps.
#[derive(Debug)]
pub struct Under<'s> {
    pub store: &'s Store,
    pub prefix: KeyPrefix,
}

/// Runs every step, each below a prefix of its own, and checks that it cleaned up. One failed step
/// does not stop the others: one run tells everything about a store.
pub async fn run(store: &Store, traits: Traits) {
    let mut failed = Vec::new();
    macro_rules! steps {
        ($($step:path),* $(,)?) => {$(
            let name = stringify!($step);
            println!("{name}");
            let prefix = KeyPrefix::new(&format!("suite/{}", name.replace("::", "-")));
            let under = Under { store, prefix };
            let step = async {
                $step(&under, traits).await;
                under.clean().await;
            };
            if AssertUnwindSafe(step).catch_unwind().await.is_err() {
                failed.push(name);
            }
        )*};
    }
    steps![
        objects::put_get_head,
        objects::empty_objects,
        objects::ranges,
        objects::missing_keys,
        objects::changed_while_reading,
        objects::attributes,
        properties::put_copy_and_upload,
        properties::foreign_names,
        objects::large_bodies,
        objects::copies,
        objects::groups,
        objects::multipart,
        objects::requests_are_counted,
        objects::clock,
        conditions::put_conditions,
        conditions::delete_conditions,
        conditions::copy_conditions,
        conditions::complete_conditions,
        conditions::parallel_creates,
        conditions::parallel_replacements,
        conditions::expiry,
        conditions::listed_versions,
        keys::raw_keys,
        keys::long_keys,
        keys::prefixes_are_raw,
        keys::many_keys,
    ];
    assert!(failed.is_empty(), "{failed:?}");
}

impl Under<'_> {
    pub fn key(&self, rest: &str) -> ObjectKey {
        self.prefix.key(rest)
    }

    pub async fn put(&self, key: &str, body: impl AsRef<[u8]>, condition: Condition) -> PutOutcome {
        let body = body.as_ref().to_vec().into();
        let send = Send { condition, ..Send::plain(TIMEOUT) };
        self.store.put(&self.key(key), body, &Attributes::new(), &Properties::default(), send).await
    }

    pub async fn write(&self, key: &str, body: impl AsRef<[u8]>) -> Version {
        won(self.put(key, body, Condition::None).await)
    }

    pub async fn delete(&self, key: &str, condition: Condition) -> PutOutcome {
        let send = Send { condition, ..Send::plain(TIMEOUT) };
        self.store.delete(&self.key(key), send).await
    }

    /// The body at a key.
    pub async fn read(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.store.get(&self.key(key), None, None, TIMEOUT).await?.data.to_vec())
    }

    pub async fn exists(&self, key: &str) -> bool {
        self.store.head(&self.key(key), TIMEOUT).await.unwrap().is_some()
    }

    /// Every key and folded prefix below `prefix`, read in pages of `max_keys`. Without this
    /// step's own prefix.
    pub async fn list(
        &self,
        prefix: &str,
        delimiter: bool,
        max_keys: u32,
    ) -> (Vec<(String, Version)>, Vec<String>) {
        let (mut entries, mut prefixes, mut token) = (Vec::new(), Vec::new(), None);
        loop {
            let prefix = self.key(prefix).as_str().to_owned();
            let request = ListRequest { prefix, delimiter, token, max_keys };
            let page = self.store.list(request, TIMEOUT).await.unwrap();
            assert!(
                page.entries.len() + page.prefixes.len() <= max_keys as usize,
                "a page holds at most what was asked"
            );
            let own = |key: &str| key.strip_prefix(self.prefix.as_str()).unwrap().to_owned();
            entries.extend(page.entries.iter().map(|e| (own(e.key.as_str()), e.version.clone())));
            prefixes.extend(page.prefixes.iter().map(|p| own(p)));
            match page.next {
                Some(next) => token = Some(next),
                None => return (entries, prefixes),
            }
        }
    }

    pub async fn names(&self) -> Vec<String> {
        self.list("", false, 1000).await.0.into_iter().map(|(key, _)| key).collect()
    }

    async fn clean(&self) {
        use futures::StreamExt as _;
        let names = self.names().await;
        futures::stream::iter(names)
            .for_each_concurrent(32, async |name| {
                let _ = won(self.delete(&name, Condition::None).await);
            })
            .await;
        assert_eq!(self.names().await, [""; 0]);
    }

    pub async fn now(&self) -> StoreTime {
        self.store.now(TIMEOUT).await.unwrap()
    }
}

#[track_caller]
pub fn won(outcome: PutOutcome) -> Version {
    match outcome {
        PutOutcome::Won(version) => version,
        other => panic!("expected Won, got {other:?}"),
    }
}

#[track_caller]
pub fn lost(outcome: PutOutcome) {
    assert!(matches!(outcome, PutOutcome::Lost), "expected Lost, got {outcome:?}");
}

#[track_caller]
pub fn ambiguous(outcome: PutOutcome) -> StoreError {
    match outcome {
        PutOutcome::Ambiguous(error) => error,
        other => panic!("expected Ambiguous, got {other:?}"),
    }
}

/// Of one that the store did not apply, whether that is certain or not.
#[track_caller]
pub fn unapplied(outcome: PutOutcome) -> StoreError {
    match outcome {
        PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => error,
        other => panic!("expected an error, got {other:?}"),
    }
}

#[track_caller]
pub fn failed(outcome: PutOutcome) -> StoreError {
    match outcome {
        PutOutcome::Failed(error) => error,
        other => panic!("expected Failed, got {other:?}"),
    }
}
