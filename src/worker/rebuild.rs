//! `s3vol rebuild`: a new state from the objects, after the old one was lost.
//!
//! The new state is made beside the old one, under an id of its own, and taken into use by its last two steps: the old
//! one is closed, and what led there leads to the new one. Whatever cuts this short before leaves the volume as it was,
//! and what was begun is deleted by the next rebuild on this host; between the two, the next rebuild goes on. Invariants:
//! * This host has nothing of the old state that is in no bucket: nobody would bring it up any more.
//! * Nobody holds the old state meanwhile, and nobody mounts it afterwards: its `format.json` names the new one before
//!   anything leads there.
//! * Nothing of the old state is deleted, and no object is changed.
//! * What is found is what an adopted bucket would show, and the objects are no longer the volume's own: a removal
//!   leaves those that it has not published again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::format::{Format, delete_below, unreadable};
use super::fsck::Held;
use super::life::{COMMIT_BUDGET, Shared, commit_while_it_moves, open_locked, tasks};
use super::places::{Places, places};
use super::{Successor, VolumeAt, WorkerError, leave, recovery};
use crate::catalog::{Incarnation, VolumeFormat, lead_to, new_state, trace};
use crate::clock::Deadline;
use crate::data::{PathMemo, Trash, dir_key};
use crate::lease::{Judgement, LEASE, LeaseError, Observation, judge, last_epoch, record_key};
use crate::meta::log::StateDirLock;
use crate::meta::records::{ContentRec, InodeRec, SuperRec, decode};
use crate::meta::{Engine, EngineError, Follower, Lookup, MetaError, View, keys};
use crate::settle::{Links, TakenIn};
use crate::types::{Epoch, FileKind, Ino, KeyPrefix, VolumeId};

const REQUEST: Duration = Duration::from_secs(15);
const OPEN: Duration = Duration::from_secs(120);
/// Files that are named of those that lost something.
const NAMED: usize = 1000;
/// In the local folder of a state that is being made.
const BEGUN: &str = "rebuilding";
/// Rows of the old records that are looked at together.
const PAGE: usize = 500;

/// A rebuild that was looked into, and has changed nothing yet.
pub struct Rebuild {
    at: VolumeAt,
    old: Option<Old>,
    /// What an earlier rebuild made, and did not come to lead to.
    made: Option<Incarnation>,
}

impl std::fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebuild").field("url", &self.at.options.url).finish_non_exhaustive()
    }
}

/// The state that there is.
struct Old {
    id: VolumeId,
    /// Of a mount on this host.
    state_dir: PathBuf,
    places: Places,
    /// `None`: there is no `format.json`, or it cannot be read.
    known: Option<VolumeFormat>,
    /// Its records, if they can be read.
    view: Option<Arc<View>>,
    counters: Option<SuperRec>,
}

/// What a rebuild made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    pub id: VolumeId,
    /// An earlier rebuild made it.
    pub before: bool,
    /// Where the old state is kept.
    pub kept: Option<String>,
    pub found: TakenIn,
    pub links: Links,
    /// Paths, and what of them only the old records knew; the first ones.
    pub lost: Vec<String>,
    pub more_lost: u64,
    /// Whether the old records could tell what was lost.
    pub told: bool,
}

/// Where a rebuild is.
pub type Told<'t> = &'t mut (dyn FnMut(&str, u64) + Send);

/// Finds out what there is at a place.
///
/// # Errors
/// When somebody uses the volume, when this host has changes of it that are not in the bucket, or when that does not
/// answer.
pub async fn plan_rebuild(at: &VolumeAt) -> Result<Rebuild, WorkerError> {
    let traced = trace(&at.opener(), &at.options).await?;
    let mut at = at.clone();
    let Some(found) = traced.state(&at.options) else {
        return Ok(Rebuild { at, old: None, made: None });
    };
    at.options.state_url = found.state_url.clone();
    let places = places(found.id, &at.options, &at.spec(found.id).known())?;
    let known = match Format::of(&places, found.id).read().await {
        Ok(known) => known.map(|(known, _)| known),
        Err(WorkerError::Damaged(_)) => None,
        Err(error) => return Err(error),
    };
    if let Some(known) = &known {
        if known.deleting.is_some() {
            return Err(WorkerError::Removed);
        }
        if !known.engine.is_readable() {
            return Err(unreadable(&known.engine, "only that version can rebuild it"));
        }
    }
    let state_dir = at.spec(found.id).state_dir;
    let mut old = Old { id: found.id, state_dir, places, known, view: None, counters: None };
    old.refuse_held().await?;
    let made = old.made(&at).await?;
    if made.is_none() {
        old.refuse_unsynced()?;
    }
    old.read().await;
    Ok(Rebuild { at, old: Some(old), made })
}

impl Old {
    /// The state that replaces this one, if it is there: it was whole before this one was closed.
    async fn made(&self, at: &VolumeAt) -> Result<Option<Incarnation>, WorkerError> {
        let Some(id) = self.known.as_ref().and_then(|known| known.replaced_by) else {
            return Ok(None);
        };
        let places = places(id, &at.options, &at.spec(id).known())?;
        let usable = match Format::of(&places, id).read().await {
            Ok(found) => found.is_some_and(|(made, _)| made.deleting.is_none()),
            Err(WorkerError::Damaged(_)) => false,
            Err(error) => return Err(error),
        };
        let state_url = at.options.state_url.clone();
        Ok(usable.then_some(Incarnation { id, state_url, adopted: true }))
    }

    /// The engine's last epoch, if that can be read.
    async fn epoch(&self) -> Result<Option<Epoch>, WorkerError> {
        let Some(known) = &self.known else { return Ok(None) };
        let store = self.places.state_store.engine(&self.places.state)?.into_inner();
        let (folder, after) = (&known.engine.folder, known.engine.after);
        Ok(Engine::writer_epoch(&store, folder, after).await.unwrap_or(None))
    }

    /// Judges the last epoch that anything tells of. Returns the engine's.
    async fn refuse_held(&self) -> Result<Option<Epoch>, WorkerError> {
        let of_engine = self.epoch().await?;
        let told = match of_engine {
            Some(epoch) => Some(epoch),
            None => {
                last_epoch(&*self.places.state_store.backend(), &self.places.state, REQUEST).await?
            }
        };
        if let Some(epoch) = told {
            self.refuse_holder_of(epoch).await?;
        }
        Ok(of_engine)
    }

    async fn refuse_holder_of(&self, epoch: Epoch) -> Result<(), WorkerError> {
        let (store, state) = (self.places.state_store.backend(), &self.places.state);
        let mut seen = Observation::default();
        match judge(&*store, state, epoch, &mut seen, REQUEST).await {
            Ok(Judgement::Free(_)) => Ok(()),
            // Where its record is gone with the state, its owner cannot renew it either.
            Ok(Judgement::Held(holder)) if holder.record.is_none() && self.known.is_none() => {
                Ok(())
            }
            Ok(Judgement::Held(holder)) => Err(WorkerError::Held(holder.to_string())),
            Err(LeaseError::Unreadable { .. }) => {
                let key = record_key(state, epoch);
                let written =
                    store.head(&key, REQUEST).await?.and_then(|info| info.version.modified);
                let age = store.now(REQUEST).await?.0 - written.map_or(0, |at| at.0);
                match age >= LEASE.as_millis() as i64 {
                    true => Ok(()),
                    false => Err(WorkerError::Held(format!(
                        "{key} cannot be read and was written just now; try again in a minute"
                    ))),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a process that was killed has left here is brought up by the next mount of this state, and there
    /// is to be none.
    fn refuse_unsynced(&self) -> Result<(), WorkerError> {
        let dir = &self.state_dir;
        let left = || -> std::io::Result<bool> {
            Ok(dir.exists() && (recovery::has_unsynced(dir)? || recovery::has_content(dir)?))
        };
        match left().map_err(WorkerError::local(dir.display().to_string()))? {
            false => Ok(()),
            true => Err(WorkerError::Held(format!(
                "this host has changes of the volume that are not in the bucket ({}): mount it here once, so \
                 that they get there, and unmount it; if it cannot be mounted, give another --state, and they \
                 stay in that folder, which no mount reads again",
                dir.display()
            ))),
        }
    }

    /// Nobody mounts it here meanwhile.
    async fn lock(&self) -> Result<Option<StateDirLock>, WorkerError> {
        match self.state_dir.exists() {
            true => Ok(Some(leave::lock(&self.state_dir).await?)),
            false => Ok(None),
        }
    }

    /// Its records, as far as they can be read.
    async fn read(&mut self) {
        let Some(known) = &self.known else { return };
        let Ok(store) = self.places.state_store.engine(&self.places.state) else { return };
        let opened =
            Follower::open(store.into_inner(), &known.engine.folder, None, Deadline::after(OPEN));
        let Ok(Some(follower)) = opened.await else { return };
        let view = follower.view();
        if let Ok(Some(counters)) = Lookup::get::<SuperRec>(&*view, &keys::superblock()).await {
            self.counters = Some(counters);
            self.view = Some(view);
        }
    }

    /// Holds the old state, if anybody can: nobody is to mount it meanwhile. `judged` is the epoch that nobody holds.
    async fn hold(&self, judged: Option<Epoch>) -> Result<Option<Held>, WorkerError> {
        let (Some(known), Some(epoch)) = (&self.known, judged) else {
            return match self.epoch().await? {
                None => Ok(None),
                Some(_) => Err(WorkerError::Held("somebody has just taken the volume".to_owned())),
            };
        };
        match Held::claim(&self.places, known, epoch).await {
            Ok(held) => Ok(Some(held)),
            Err(WorkerError::Engine(error @ EngineError::Fenced { .. })) => Err(error.into()),
            // Nor can anybody else open it.
            Err(WorkerError::Engine(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says in the old state that it is not the volume's any more, and proves that nobody has it: whoever
    /// claims it after that reads so before he serves anything. Taken back when somebody has.
    async fn close(&self, new: VolumeId, held: Option<&Held>) -> Result<(), WorkerError> {
        let Some(known) = &self.known else { return Ok(()) };
        let format = Format::of(&self.places, self.id);
        let replaced = VolumeFormat { replaced_by: Some(new), ..known.clone() };
        let closed = async {
            format.write(&replaced).await?;
            match held {
                Some(held) => held.confirm().await,
                // Its records cannot be opened, by nobody.
                None => Ok(()),
            }
        };
        let closed = closed.await;
        if closed.is_err()
            && let Err(error) = format.write(known).await
        {
            tracing::error!(%error, id = %self.id,
                "the old state may say that it was replaced, and was not: rebuild the volume once more");
        }
        closed
    }
}

impl Rebuild {
    /// What there is, and what would be done, for a person who is asked.
    pub fn plan(&self) -> String {
        let url = &self.at.options.url;
        let Some(old) = &self.old else {
            return format!("No state of {url} is known; a new one is made of its objects.");
        };
        if let Some(made) = &self.made {
            return format!(
                "The state {} of the volume at {url} was replaced by {}, which was made of the objects, and nothing \
                 leads there yet. That is done now, and nothing else.",
                old.id, made.id
            );
        }
        let what = match &old.counters {
            None => "It cannot be read: what only it knew is lost.".to_owned(),
            Some(counters) => format!(
                "It can be read: {} files and directories, of which {} are not all at rest. What of those only the \
                 state knows is lost; `s3vol fsck --repair` may be what you want.",
                counters.inodes.saturating_sub(1),
                counters.work
            ),
        };
        format!(
            "The volume at {url} has the state {}. {what} It is kept, and nobody mounts it any more; a new one is \
             made of the objects.",
            old.id
        )
    }

    /// Makes the new state and takes it into use.
    ///
    /// # Errors
    /// When somebody took the volume meanwhile or the bucket does not answer: then it is as it was, but for
    /// [`WorkerError::NotLed`].
    pub async fn run(self, told: Told<'_>) -> Result<Rebuilt, WorkerError> {
        if let Some(made) = &self.made {
            let made = made.clone();
            return self.taken_into_use(made, TakenIn::default(), Links::default()).await;
        }
        let (_lock, held) = match &self.old {
            None => (None, None),
            Some(old) => {
                let lock = old.lock().await?;
                old.refuse_unsynced()?;
                let judged = old.refuse_held().await?;
                (lock, old.hold(judged).await?)
            }
        };
        let made = self.make(held.as_ref(), told).await;
        // It stays the volume's if this did not come to its end.
        if let Some(held) = held
            && let Err(error) = held.release().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the old state was not given back; its lease runs out"
            );
        }
        made
    }

    async fn make(&self, held: Option<&Held>, told: Told<'_>) -> Result<Rebuilt, WorkerError> {
        self.clear_begun().await?;
        let new = new_state(&self.at.opener(), &self.at.options).await?;
        let filled = match self.note_begun(new.id) {
            Ok(()) => self.fill(&new, told).await,
            Err(error) => Err(error),
        };
        let filled = match (filled, &self.old) {
            (Ok(filled), Some(old)) => {
                // From here on it may be the volume's.
                self.forget_begun(new.id);
                old.close(new.id, held).await.map(|()| filled)
            }
            (filled, _) => filled,
        };
        let (found, links) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                self.undo(new.id).await;
                return Err(error);
            }
        };
        self.forget_begun(new.id);
        self.taken_into_use(new, found, links).await
    }

    /// Makes what led to the old state lead to `new`, and says what the old one knew alone.
    async fn taken_into_use(
        &self,
        new: Incarnation,
        found: TakenIn,
        links: Links,
    ) -> Result<Rebuilt, WorkerError> {
        let (mut lost, mut more_lost, mut named) = (Vec::new(), 0, false);
        if let Some(old) = &self.old
            && let Some(view) = &old.view
        {
            named = name_lost(view, &mut lost, &mut more_lost).await.is_ok();
        }
        let kept = self.old.as_ref().map(|old| {
            format!("{}/{}", self.at.options.state_url.trim_end_matches('/'), state_of(old.id))
        });
        let id = new.id;
        lead_to(&self.at.opener(), &self.at.options, &new)
            .await
            .map_err(|source| WorkerError::NotLed { id, source })?;
        tracing::info!(url = %self.at.options.url, %id, "rebuilt from its objects");
        let before = self.made.is_some();
        Ok(Rebuilt { id, before, kept, found, links, lost, more_lost, told: named })
    }

    /// Written into the local folder of a state that is being made, for the next rebuild of the place.
    fn begun(&self) -> String {
        let options = &self.at.options;
        let endpoint = options.endpoint.as_deref().unwrap_or_default();
        format!("{}\n{}\n{endpoint}\n", options.url, options.state_url)
    }

    fn note_begun(&self, id: VolumeId) -> Result<(), WorkerError> {
        let dir = self.at.spec(id).state_dir;
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join(BEGUN), self.begun()))
            .map_err(WorkerError::local(dir.display().to_string()))
    }

    fn forget_begun(&self, id: VolumeId) {
        // One that stays is of a state that something leads to, and is not believed.
        let _ = std::fs::remove_file(self.at.spec(id).state_dir.join(BEGUN));
    }

    /// Takes away what rebuilds of this place on this host began that were killed.
    async fn clear_begun(&self) -> Result<(), WorkerError> {
        let volumes = &self.at.volumes;
        let Ok(folders) = std::fs::read_dir(volumes) else { return Ok(()) };
        for folder in folders.flatten() {
            let name = folder.file_name();
            let id = name.to_str().and_then(|name| uuid::Uuid::parse_str(name).ok()).map(VolumeId);
            let Some(id) = id else { continue };
            let note = std::fs::read_to_string(folder.path().join(BEGUN)).unwrap_or_default();
            if note != self.begun() {
                continue;
            }
            // One that is under way has the lock.
            let Ok(_lock) = StateDirLock::acquire(&folder.path()) else { continue };
            let traced = trace(&self.at.opener(), &self.at.options).await?;
            let leads = traced.entry.is_some_and(|entry| entry.id == id)
                || traced.definitions.iter().any(|definition| definition.uuid == id);
            match leads {
                true => self.forget_begun(id),
                false => self.undo(id).await,
            }
        }
        Ok(())
    }

    /// Takes away what was begun: nothing leads to it, and its names are never used again.
    async fn undo(&self, id: VolumeId) {
        let spec = self.at.spec(id);
        let Ok(places) = places(id, &self.at.options, &spec.known()) else { return };
        let store = places.state_store.backend();
        if let Err(error) = delete_below(&*store, &places.state, |_| true).await {
            tracing::warn!(%error, %id, "a state that was begun stays in the bucket");
            return;
        }
        if let Err(error) = Trash::beside(&spec.state_dir).take(&spec.state_dir) {
            tracing::debug!(%error, %id, "the folder of a state that was begun stays");
        }
    }

    /// Opens the new state as a mount does, and brings all objects in.
    async fn fill(
        &self,
        new: &Incarnation,
        told: Told<'_>,
    ) -> Result<(TakenIn, Links), WorkerError> {
        let spec = self.at.spec(new.id);
        let lock = leave::lock(&spec.state_dir).await?;
        let mut mounted = open_locked(&spec, Successor::No, &lock).await?;
        let shared = Shared::new(spec, &mounted);
        let _watched = tasks::unattended(&shared, &mut mounted);
        let filled = async {
            let found = mounted.reconciler.take_in(|so_far| told("objects", so_far.all())).await?;
            let links = mounted.settler.join_links(|done| told("hard links", done)).await?;
            while mounted.volume.collect_dead().await? {}
            Ok::<_, WorkerError>((found, links))
        };
        let filled = filled.await;
        if filled.is_ok() {
            // The rest may take a slow uplink longer than an unmount may take.
            commit_while_it_moves(&shared).await?;
        }
        shared.seal(COMMIT_BUDGET, Duration::ZERO).await?;
        shared.export().await;
        shared.release().await?;
        filled
    }
}

fn state_of(id: VolumeId) -> String {
    format!(".s3vol/v/{id}/")
}

/// What was not at rest: each inode that the old records were about to settle.
async fn name_lost(view: &View, lost: &mut Vec<String>, more: &mut u64) -> Result<(), MetaError> {
    let (mut from, to) = keys::below(keys::WORK, &[]);
    let mut memo = PathMemo::default();
    loop {
        let page = Lookup::scan(view, (from, to.clone()), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = std::ops::Bound::Excluded(last.to_vec());
        for (key, _) in &page {
            let Some(ino) = keys::parse_ino(key) else { continue };
            if lost.len() >= NAMED {
                *more += 1;
                continue;
            }
            if let Some(what) = what_is_lost(view, ino).await? {
                let path = path_of(view, ino, &mut memo).await?;
                lost.push(format!("{path}: {what}"));
            }
        }
    }
}

async fn what_is_lost(view: &View, ino: Ino) -> Result<Option<String>, MetaError> {
    let row = view.get_raw(&keys::inode(ino)).await?;
    let Some(inode) = row.and_then(|value| decode::<InodeRec>(&value).ok()) else {
        return Ok(None);
    };
    if inode.nlink == 0 {
        return Ok(None);
    }
    let row = view.get_raw(&keys::content(ino)).await?;
    let content = row.and_then(|value| decode::<ContentRec>(&value).ok());
    Ok(Some(match content {
        Some(content) if inode.kind == FileKind::File && !content.at_rest() => match content.base {
            Some(_) => "its last changes; its object shows what was before".to_owned(),
            None => format!("{} bytes that were in no object yet", content.size),
        },
        _ => "its last name or attributes; its object shows what was before".to_owned(),
    }))
}

async fn path_of(view: &View, ino: Ino, memo: &mut PathMemo) -> Result<String, MetaError> {
    if ino == Ino::ROOT {
        return Ok("/".to_owned());
    }
    let page = Lookup::scan(view, keys::of_inode(keys::PARENT, ino), 1).await?;
    let Some((dir, name)) = page.first().and_then(|(row, _)| keys::parse_parent(row)) else {
        return Ok(format!("inode {ino}"));
    };
    let dir = dir_key(view, &KeyPrefix::new(""), dir, memo).await.ok().flatten();
    Ok(format!("/{}{name}", dir.unwrap_or_else(|| "?/".to_owned())))
}
