//! Copies on the server: what lies in the store whole gets another name, or other attributes, without coming here and
//! going back. Only where the probe saw that a copy whose source is another one by now is refused, and one whose target
//! is: elsewhere, and wherever the store refuses, it is sent from here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::SettleError;
use super::body::Body;
use super::dress::Dress;
use super::settler::Settler;
use crate::data::{Inode, PathMemo};
use crate::meta::records::ContentRec;
use crate::store::{StoreError, StoreErrorKind, Verb, is_archived};
use crate::types::{Base, FileKind, Ino};

/// What is published by one copy, bytes: a store that looks at the condition when it begins to copy must be done before
/// others take the request for dead.
const PUBLISHED_COPY: u64 = 1 << 30;
/// Files that are sent from here next time; no more than that are remembered.
const MOST_SPARED: usize = 10_000;

/// What was found out about copies in this bucket.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// What the store said to a copy of which it then took the bytes: it copies nothing.
    refused: Mutex<Option<StoreError>>,
    /// It did not copy what has tags that nobody here can read: some want the right to read tags for that.
    tags_refused: AtomicBool,
    /// Files that are sent from here next time, and what the store said if it did not copy them.
    spared: Mutex<HashMap<Ino, Option<StoreError>>>,
}

impl Copies {
    /// Whether the store copies, as far as it has said.
    pub fn are_made(&self, tags: Tagged) -> bool {
        match tags {
            Tagged::Known => self.refused.lock().is_none(),
            Tagged::Unread => !self.tags_refused.load(Ordering::Relaxed),
        }
    }

    /// What was said to a copy. True: the same bytes may well be taken if they are sent from here.
    pub fn failed(&self, ino: Ino, tags: Tagged, error: &StoreError) -> bool {
        use StoreErrorKind::{Denied, TagsDenied, Unsupported};
        let refuses = matches!(error.kind, Denied | TagsDenied | Unsupported);
        match tags {
            Tagged::Known if refuses => {
                self.spare(ino, Some(StoreError::new(error.kind, error.to_string())));
            }
            Tagged::Unread if refuses && !self.tags_refused.swap(true, Ordering::Relaxed) => {
                tracing::info!(%error, "the store does not copy what has tags that cannot be read");
            }
            _ => {}
        }
        refuses
    }

    /// The next publish of this file is sent from here, whatever its object seems to be.
    pub fn spare(&self, ino: Ino, said: Option<StoreError>) {
        let mut spared = self.spared.lock();
        if spared.len() >= MOST_SPARED {
            spared.clear();
        }
        spared.insert(ino, said);
    }

    /// It is at rest.
    pub fn rests(&self, ino: Ino) {
        let said = self.spared.lock().remove(&ino).flatten();
        if let Some(said) = said
            && let refused = &mut *self.refused.lock()
            && refused.is_none()
        {
            tracing::warn!(error = %said, "the store copies no objects; they are sent from here");
            *refused = Some(said);
        }
    }

    fn is_spared(&self, ino: Ino) -> bool {
        self.spared.lock().contains_key(&ino)
    }

    /// For the status: the right that is missing.
    pub fn missing_right(&self) -> Option<String> {
        let refused = self.refused.lock();
        let denied = refused.as_ref().filter(|said| said.kind != StoreErrorKind::Unsupported)?;
        Some(format!(
            "{denied}; what is renamed, or gets other attributes, is sent again instead of copied"
        ))
    }
}

/// Whether the tags of an object are known, or go along with a copy unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tagged {
    Known,
    Unread,
}

impl Tagged {
    pub fn of(dress: &Dress) -> Tagged {
        if dress.properties.tags.is_some() { Tagged::Known } else { Tagged::Unread }
    }
}

impl Settler {
    /// Whether the store holds to both conditions of a copy.
    fn copies(&self) -> bool {
        let can = |verb| self.volume.capabilities.has(verb);
        can(Verb::Copy) && can(Verb::CopyConditional)
    }

    /// The object that is all of a file's content, if one copy may publish it.
    fn whole<'c>(&self, content: &'c ContentRec) -> Option<&'c Base> {
        let base = content.base.as_ref().filter(|base| !base.parked && content.at_rest())?;
        // What may still arrive there has other bytes.
        let fits = base.version.size <= PUBLISHED_COPY && !self.hot.is_hot(&base.key);
        fits.then_some(base)
    }

    /// Whether a file whose object was seen just now is published by a copy, unless it bears what forbids that.
    pub(super) fn is_copied(&self, ino: Ino, content: &ContentRec) -> bool {
        self.copies()
            && self.volume.store.copies_bear_all()
            && self.copies.are_made(Tagged::Known)
            && !self.copies.is_spared(ino)
            && self.whole(content).is_some()
    }

    /// A copy on the server for an inode whose content lies in the store whole. `seen`: its object was looked at just
    /// now, and is the one that it shows through. `first`: no other of its keys is published before this one.
    pub(super) async fn copy_on_server(
        &self,
        (inode, content): (&Inode, &ContentRec),
        dress: &Dress,
        (seen, first): (bool, bool),
        memo: &mut PathMemo,
    ) -> Result<Option<Body>, SettleError> {
        let tags = Tagged::of(dress);
        let archived = dress.properties.class.as_deref().is_some_and(is_archived);
        if archived || !self.copies() || !self.copies.are_made(tags) {
            return Ok(None);
        }
        let kind = inode.live().attr.kind;
        if kind != FileKind::File {
            // There is nothing to fetch, but only a copy takes tags along that nobody here can read.
            let at = match tags {
                Tagged::Known => None,
                Tagged::Unread => self.resting(inode.ino, kind, memo).await?,
            };
            let fits = at.filter(|(_, version)| version.size <= PUBLISHED_COPY);
            return Ok(fits.map(|(from, expect)| Body::Copy { from, expect }));
        }
        let copied = match tags {
            // A copy onto the base itself may change its ETag, and those beside it would be refused.
            Tagged::Known => seen && first && self.is_copied(inode.ino, content),
            Tagged::Unread => seen,
        };
        let base = self.whole(content).filter(|_| copied);
        Ok(base.map(|base| Body::Copy { from: base.key.clone(), expect: base.version.clone() }))
    }
}
