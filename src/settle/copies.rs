//! Copies on the server: what lies in the store whole gets another name, or other attributes, without coming here and
//! going back. Only where the probe saw that a copy whose source is another one by now is refused, and one whose target
//! is: elsewhere, and wherever the store refuses, it is sent from here.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::body::Body;
use super::dress::Dress;
use super::{SettleError, Settler};
use crate::clock::boottime;
use crate::data::{Inode, PathMemo};
use crate::meta::records::ContentRec;
use crate::store::{StoreError, StoreErrorKind, Verb, is_archived};
use crate::types::{Base, FileKind, Ino};

/// What is published by one copy, and by all copies of one round, bytes: a store that looks at the condition when it
/// begins to copy must be done before others take the request for dead.
const PUBLISHED_COPY: u64 = 64 << 20;
pub(super) const MOST_COPIED: u64 = 256 << 20;
/// The same for an object whose tags only a copy takes along.
const UNREAD_COPY: u64 = 1 << 30;
/// So many files that the store did not copy, and then took, with no copy in between, say that it copies nothing. It is
/// tried again after an hour: rights and credentials change.
const ENOUGH: u32 = 3;
const REFUSED_FOR: Duration = Duration::from_secs(3600);
/// So many copies without a clear answer, with none that succeeded in between, and no more are sent for a while.
const DOUBTS: u32 = 8;
const DOUBTED_FOR: Duration = Duration::from_secs(600);
/// So many of one file whose tags only a copy takes along, and it is sent without them.
const UNREAD_DOUBTS: u32 = 3;
/// Files that are sent from here next time; no more than that are remembered.
const MOST_SPARED: usize = 10_000;

/// What was found out about copies in this bucket.
#[derive(Debug, Default)]
pub(super) struct Copies {
    known: Mutex<Trial>,
    /// Of what has tags that nobody here can read: some want the right to read tags for a copy of that.
    unread: Mutex<Trial>,
    /// Files that are sent from here next time, and what the store said if it did not copy them.
    spared: Mutex<HashMap<(Ino, Tagged), Option<StoreError>>>,
    /// Files whose tags only a copy takes along, and how often nobody knew whether one was made.
    doubted: Mutex<HashMap<Ino, u32>>,
}

/// What the store did with copies since the last one that succeeded.
#[derive(Debug, Default)]
struct Trial {
    /// What it said to the last of enough copies whose bytes it then took, and when.
    refused: Option<(StoreError, Duration)>,
    refusals: u32,
    doubts: u32,
    doubted: Duration,
}

impl Trial {
    fn copies(&self, now: Duration) -> bool {
        let lately = |at: Duration, length| now.saturating_sub(at) < length;
        let refused = self.refused.as_ref().is_some_and(|(_, at)| lately(*at, REFUSED_FOR));
        !refused && (self.doubts < DOUBTS || !lately(self.doubted, DOUBTED_FOR))
    }
}

impl Copies {
    /// Whether the store copies, as far as it has said.
    pub fn are_made(&self, tags: Tagged) -> bool {
        self.trial(tags).lock().copies(boottime())
    }

    fn trial(&self, tags: Tagged) -> &Mutex<Trial> {
        match tags {
            Tagged::Known => &self.known,
            Tagged::Unread => &self.unread,
        }
    }

    /// What was said to a copy. True: the same bytes may well be taken if they are sent from here.
    pub fn failed(&self, ino: Ino, tags: Tagged, error: &StoreError) -> bool {
        use StoreErrorKind::{Denied, TagsDenied, Unsupported};
        let refuses = matches!(error.kind, Denied | TagsDenied | Unsupported);
        if refuses {
            self.spare(ino, tags, Some(StoreError::new(error.kind, error.to_string())));
        }
        refuses
    }

    /// A copy was made.
    pub fn made(&self, ino: Ino, tags: Tagged) {
        self.spared.lock().remove(&(ino, tags));
        self.doubted.lock().remove(&ino);
        *self.trial(tags).lock() = Trial::default();
    }

    /// Nobody knows whether a copy was made. A store that takes too long would do so again.
    pub fn doubts(&self, ino: Ino, tags: Tagged) {
        if tags == Tagged::Known {
            let mut trial = self.known.lock();
            (trial.doubts, trial.doubted) = (trial.doubts.saturating_add(1), boottime());
            drop(trial);
            return self.spare(ino, tags, None);
        }
        // Nor do doubts about others cost a file its tags.
        let mut doubted = self.doubted.lock();
        if doubted.len() >= MOST_SPARED {
            doubted.clear();
        }
        let times = doubted.entry(ino).or_default();
        *times += 1;
        if *times >= UNREAD_DOUBTS {
            doubted.remove(&ino);
            tracing::warn!(%ino, "the store does not finish copying what has tags that cannot be read");
            self.spare(ino, tags, None);
        }
    }

    /// The next publish of this file is sent from here, whatever its object seems to be.
    pub fn spare(&self, ino: Ino, tags: Tagged, said: Option<StoreError>) {
        let mut spared = self.spared.lock();
        if spared.len() >= MOST_SPARED {
            spared.clear();
        }
        spared.insert((ino, tags), said);
    }

    /// It is at rest.
    pub fn rests(&self, ino: Ino) {
        self.doubted.lock().remove(&ino);
        for tags in [Tagged::Known, Tagged::Unread] {
            let said = self.spared.lock().remove(&(ino, tags)).flatten();
            let Some(said) = said else { continue };
            let mut trial = self.trial(tags).lock();
            trial.refusals += 1;
            if trial.refusals < ENOUGH {
                continue;
            }
            match tags {
                Tagged::Known => {
                    tracing::warn!(error = %said, "the store copies no objects; they are sent from here");
                }
                Tagged::Unread => {
                    tracing::warn!(error = %said, "the store does not copy what has tags that cannot be read");
                }
            }
            (trial.refused, trial.refusals) = (Some((said, boottime())), 0);
        }
    }

    fn is_spared(&self, ino: Ino, tags: Tagged) -> bool {
        self.spared.lock().contains_key(&(ino, tags))
    }

    /// For the status: the right that is missing.
    pub fn missing_right(&self) -> Option<String> {
        let trial = self.known.lock();
        let (denied, _) =
            trial.refused.as_ref().filter(|(said, _)| said.kind != StoreErrorKind::Unsupported)?;
        Some(format!(
            "{denied}; what is renamed, or gets other attributes, is sent again instead of copied"
        ))
    }
}

/// Whether the tags of an object are known, or go along with a copy unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Tagged {
    Known,
    Unread,
}

impl Tagged {
    pub fn of(dress: &Dress) -> Tagged {
        if dress.properties.tags.is_some() { Tagged::Known } else { Tagged::Unread }
    }
}

/// What is known about the object that a copy is to take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// It was looked at just now, and is the one that its inode shows through.
    pub seen: bool,
    /// It is gone, or another one lies there.
    pub lost: bool,
    /// No other key of its inode is published before this one.
    pub first: bool,
}

impl Settler {
    /// Whether the store holds to both conditions of a copy.
    fn copies(&self) -> bool {
        let can = |verb| self.volume.capabilities.has(verb);
        can(Verb::Copy) && can(Verb::CopyConditional)
    }

    /// The object that is all of a file's content, if one copy may publish it.
    fn whole<'c>(&self, content: &'c ContentRec, most: u64) -> Option<&'c Base> {
        let base = content.base.as_ref().filter(|base| !base.parked && content.at_rest())?;
        // What may still arrive there has other bytes.
        let fits = base.version.size <= most && !self.hot.is_hot(&base.key);
        fits.then_some(base)
    }

    /// The object of a file that one copy may publish, if that lies where it was seen.
    fn to_copy<'c>(&self, ino: Ino, content: &'c ContentRec, tags: Tagged) -> Option<&'c Base> {
        let (bears_all, most) = match tags {
            Tagged::Known => (self.volume.store.copies_bear_all(), PUBLISHED_COPY),
            // Sent from here, its tags would be gone.
            Tagged::Unread => (true, UNREAD_COPY),
        };
        let copied = bears_all
            && self.copies()
            && self.copies.are_made(tags)
            && !self.copies.is_spared(ino, tags);
        self.whole(content, most).filter(|_| copied)
    }

    /// What the store has to copy for a file, bytes, if copies publish it under all of its names, unless its object bears
    /// what forbids that.
    pub(super) fn copied_bytes(&self, inode: &Inode) -> Option<u64> {
        let (content, names) = {
            let live = inode.live();
            (live.content.clone(), live.attr.nlink)
        };
        let tags = if self.tags.unreadable() { Tagged::Unread } else { Tagged::Known };
        let base = self.to_copy(inode.ino, &content, tags).filter(|_| names == 1)?;
        Some(base.version.size)
    }

    /// A copy on the server for an inode whose content lies in the store whole.
    pub(super) async fn copy_on_server(
        &self,
        (inode, content): (&Inode, &ContentRec),
        dress: &Dress,
        source: Source,
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
                Tagged::Unread if source.lost || self.copies.is_spared(inode.ino, tags) => None,
                Tagged::Unread => self.resting(inode.ino, kind, memo).await?,
            };
            let fits = at.filter(|(_, version)| version.size <= UNREAD_COPY);
            return Ok(fits.map(|(from, expect)| Body::Copy { from, expect }));
        }
        let copied = match tags {
            // A copy onto the base itself may change its ETag, and those beside it would be refused.
            Tagged::Known => source.seen && source.first,
            // What was not seen just now is compared by the copy itself.
            Tagged::Unread => !source.lost,
        };
        let base = self.to_copy(inode.ino, content, tags).filter(|_| copied);
        Ok(base.map(|base| Body::Copy { from: base.key.clone(), expect: base.version.clone() }))
    }
}
