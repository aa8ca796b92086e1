//! Opening a volume: whose turn is it, what does the local log still know, and then the file system.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::claim::Claiming;
use super::parting::Parting;
use super::trial::essentials;
use super::{Mounted, Successor};
use crate::clock::Deadline;
use crate::data::{DataError, Recovered, Trash, Volume, VolumeParts};
use crate::fault::{Mutant, at, points};
use crate::fs::Fs;
use crate::lease::{Judgement, Keeper, KeeperConfig, LEASE, Observation, judge};
use crate::meta::log::{Header, Opened, StateDirLock};
use crate::meta::records::{SuperRec, decode};
use crate::meta::{
    Applied, BucketClock, Engine, EngineConfig, EngineError, EngineHome, Fold, Journal, LocalLog,
    Logged, Meta, MetaError, Opening, Record, keys,
};
use crate::settle::{Permit, Reconciler, Settler};
use crate::store::{StoreBackend, Verb, both};
use crate::types::{Epoch, Ino, Lsn};
use crate::worker::format::{EpochLog, Format, to_ours};
use crate::worker::local::{MIRROR, mirror};
use crate::worker::places::{Places, places};
use crate::worker::{WorkerError, WorkerSpec, leave, recovery};

/// How long a volume that another host holds is waited for.
const HELD_BUDGET: Duration = Duration::from_secs(15);
const HELD_PACE: Duration = Duration::from_secs(2);
/// Whoever claimed an epoch writes down who he is at once. Where a killed process of this host may have
/// claimed it, this long is enough to see that nobody does.
const UNSAID: Duration = Duration::from_secs(1);
const REQUEST: Duration = Duration::from_secs(10);
/// An opening during which nothing moves between here and the bucket ends after this long.
const STALLED: Duration = Duration::from_secs(120);
/// Bodies that are sent again and again and refused look like something that moves.
const ROUNDS: u32 = 15;
/// Refused requests and their answers are less than this, bytes.
const LEAST_MOVED: u64 = 64 << 10;

/// The settle permit that a lease gives.
struct LeasePermit(Arc<Keeper>);

impl std::fmt::Debug for LeasePermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeasePermit")
    }
}

impl Permit for LeasePermit {
    fn may_publish(&self) -> bool {
        self.0.authority().is_some()
    }

    fn lapses(&self) -> u64 {
        self.0.lapses()
    }
}

/// Opens the volume: claims its epoch, replays the local log, loads what settling has to do.
///
/// A volume that another host holds is waited for a short while, a bucket that goes away meanwhile
/// for some minutes. Dropped half-way it may leave a claimed epoch, or a lease that nobody renews, which makes others
/// wait until a lease would have run out; so does one that fails.
pub async fn open(spec: &WorkerSpec, successor: Successor) -> Result<Mounted, WorkerError> {
    let lock = leave::lock(&spec.state_dir).await?;
    let opened = open_locked(spec, successor, &lock).await?;
    Ok(Mounted { _lock: Some(lock), ..opened })
}

/// As [`open`], for a process that has the lock and keeps it until it has ended: tasks that are cut off
/// then cannot meet the next owner of the folder.
pub(in crate::worker) async fn open_locked(
    spec: &WorkerSpec,
    successor: Successor,
    _lock: &StateDirLock,
) -> Result<Mounted, WorkerError> {
    open_in(spec, successor, places(spec.id, &spec.options, &spec.known())?).await
}

/// As [`open_locked`], where the stores are known already.
pub(in crate::worker) async fn open_in(
    spec: &WorkerSpec,
    successor: Successor,
    places: Places,
) -> Result<Mounted, WorkerError> {
    let store = places.state_store.backend();
    let moved = || {
        let requests = store.requests();
        requests.bytes_up + requests.bytes_down
    };
    tokio::select! {
        opened = open_at(spec, successor, places) => opened,
        stalled = stalled(moved, STALLED) => Err(stalled),
    }
}

fn bucket_clock(store: Arc<dyn StoreBackend>) -> BucketClock {
    const REQUEST: Duration = Duration::from_secs(10);
    Arc::new(move || {
        let store = Arc::clone(&store);
        Box::pin(async move { store.now(REQUEST).await.ok().map(|now| now.0) })
    })
}

/// Waits until nothing has moved for `patience`, or for `ROUNDS` times as long. How long a replay may
/// take depends on the log and the link, but something moves, and what became durable is not replayed
/// by the next attempt.
async fn stalled(moved: impl Fn() -> u64, patience: Duration) -> WorkerError {
    for _ in 0..ROUNDS {
        let before = moved();
        tokio::time::sleep(patience).await;
        if moved() <= before + LEAST_MOVED {
            return WorkerError::Stalled(patience);
        }
    }
    WorkerError::Stalled(patience * ROUNDS)
}

async fn open_at(
    spec: &WorkerSpec,
    successor: Successor,
    places: Places,
) -> Result<Mounted, WorkerError> {
    let state_dir = &spec.state_dir;
    let trash = Trash::beside(state_dir);
    trash.start();
    let format = Arc::new(Format::of(&places, spec.id));
    let parting = Parting::take(state_dir).filter(|_| successor == Successor::Yes);
    // Nearly every volume has its metadata where a new one has it.
    let object_store = places.state_store.engine(&places.state)?.into_inner();
    let first = EngineHome::first();
    let likely = Opening::new(Arc::clone(&object_store), &first);
    let newest = parting.as_ref().and_then(|parting| parting.newest(&first.folder));
    let looks = async {
        likely.look(newest).await;
        Ok(())
    };
    let (known, ()) = both(format.open(&places), looks).await?;
    let known = to_ours(&places, &format, known, spec.options.single_host).await?;

    let epochs: Arc<EpochLog> = Arc::default();
    let home = known.engine.clone();
    let opening = if likely.is_for(&home) { likely } else { Opening::new(object_store, &home) };
    let mut local = open_log(spec)?;
    // A mirror that is still there has what it takes.
    let mirrors = !crate::fault::one_thread();
    let tables = mirrors && !state_dir.join(MIRROR).exists();
    let free = async {
        let found = opening.writer_epoch(tables).await?;
        if let Some(epoch) = found
            && !local.epochs.contains(&epoch)
        {
            let ours = Claiming::of(state_dir);
            wait_until_free(&places, &home, &opening, epoch, ours).await?;
        }
        Ok::<_, WorkerError>(found)
    };
    let trial = async {
        match parting.is_some_and(|parting| parting.tried(&known.state_capabilities)) {
            true => Ok(known),
            false => essentials(&places, known, spec.options.single_host).await,
        }
    };
    // Nothing is claimed before both are known.
    let (known, found) = both(trial, free).await?;
    let mut config = EngineConfig::new(opening.store(), home.folder.clone(), found);
    config.after = home.after;
    config.if_match = known.state_capabilities.has(Verb::PutIfMatch);
    config.on_epoch = Some(epochs.hook());
    config.bucket_clock = Some(bucket_clock(places.state_store.backend()));
    config.mirror = mirrors.then(|| mirror(spec));
    // What is not durable must fit into the log twice: once while it is rewritten.
    config.most_kept = usize::try_from(local.log.long() / 2).unwrap_or(usize::MAX);
    let instance = Uuid::new_v4();
    let base = found.unwrap_or(home.after);
    Claiming::begin(base, instance).note(state_dir);
    at(points::CLAIM_BEFORE);
    let opens = async {
        let opened = Engine::open(config).await;
        opening.done();
        if matches!(opened, Err(EngineError::Fenced { .. })) {
            // Whoever won is just opening, and gets the time for it.
            Claiming::done(state_dir);
        }
        Ok::<_, WorkerError>(opened?)
    };
    let host = crate::sys::hostname();
    let keep = async |epoch| {
        at(points::CLAIM_AFTER);
        crate::fault::die_if_asked(crate::fault::DIE_CLAIMED);
        let mut config = KeeperConfig::new(
            places.state_store.backend(),
            places.state.clone(),
            epoch,
            host.clone(),
            Arc::clone(&format) as _,
        );
        config.instance = instance;
        Ok::<_, WorkerError>(Keeper::start(config, Deadline::after(REQUEST * 2)).await?)
    };
    // Before anything that may take long: who finds an epoch without a record for a lease takes the volume.
    let says = async {
        match opening.claimed().await {
            true => keep(Epoch(base.0 + 1)).await.map(Some),
            false => Ok(None),
        }
    };
    let (engine, keeper) = both(opens, says).await?;
    let claimed = engine.epoch();
    let kept = async {
        match keeper {
            // The engine may have claimed again since.
            Some(keeper) => {
                keeper.follow(claimed, Deadline::after(REQUEST * 2)).await?;
                Ok(keeper)
            }
            None => keep(claimed).await,
        }
    };
    let (keeper, ()) = both(kept, fetch_first_rows(&engine)).await?;
    let keeper = Arc::new(keeper);

    let applied = engine.applied();
    let short = falls_short(&local, applied);
    if short {
        tracing::error!("the local log has lost what the bucket has of it, and is not replayed");
    }
    if !belongs(&local, found, applied) || short {
        let records = std::mem::take(&mut local.replayed);
        // Of one without records the epochs alone would count: as if it went on from what was before them.
        if !records.is_empty() || !local.epochs.is_empty() {
            drop(local);
            recovery::set_aside(state_dir, &records, &engine, &trash).await?;
            local = open_log(spec)?;
        }
    }
    recovery::goes_on(state_dir, &trash)?;
    let journal = Arc::new(Mutex::new(Journal::before_replay(local.log)));
    epochs.log_to(&journal, claimed)?;
    Claiming::done(state_dir);
    let durable = applied.map(|applied| applied.lsn).unwrap_or_default();
    let fold = replay(&engine, local.replayed, durable, successor).await?;
    let superblock: SuperRec = match engine.get(&keys::superblock()).await? {
        Some(bytes) => decode(&bytes).map_err(MetaError::from)?,
        None => Volume::first_superblock(),
    };
    let recovered = Recovered {
        pending: fold.pending.clone(),
        times: fold.times.clone(),
        opens: fold.opens.clone(),
    };
    if !recovered.pending.is_empty() {
        tracing::info!(
            files = recovered.pending.len(),
            "uncommitted changes were found in the local log"
        );
    }
    // A successor goes on with the connection of the worker that died. Any other connection is new,
    // and no other of this volume has the number of this epoch.
    let taken_over = (successor == Successor::Yes).then(|| fold.connection()).filter(|c| *c != 0);
    let connection = taken_over.unwrap_or(claimed.0);
    journal.lock().go_on_from(fold, durable);
    make_log_room(&engine, &journal).await?;
    {
        let mut journal = journal.lock();
        if taken_over.is_none() {
            journal.append(&Record::Connected { conn: connection })?;
        }
    }
    let meta = Meta::sharing(engine, journal, superblock, connection);
    announce_owner(&meta, claimed).await?;

    // Whoever is changing the engine may have looked before our record was there.
    if format.engine_changes() {
        return Err(WorkerError::Held(
            "another version of the plugin is just moving the volume's metadata; try again".into(),
        ));
    }
    let volume = Volume::open(
        VolumeParts {
            id: spec.id,
            name: spec.name.clone(),
            meta,
            store: places.store.backend(),
            prefix: places.prefix,
            state_store: places.state_store.backend(),
            state: places.state,
            same_bucket: places.same_bucket,
            options: spec.options.clone(),
            capabilities: known.capabilities,
            cache_dir: state_dir.join("cache"),
            trash,
        },
        recovered,
    )
    .await?;
    volume.remove_orphans().await?;
    let permit = Arc::new(LeasePermit(Arc::clone(&keeper)));
    let settler = Settler::open(Arc::clone(&volume), permit, host).await?;
    let (tell, changes) = crate::settle::changes();
    let reconciler = Reconciler::new(Arc::clone(&settler), tell);
    let fs = Arc::new(Fs::new(Arc::clone(&volume), Arc::clone(&reconciler) as _));
    Ok(Mounted { volume, settler, keeper, fs, reconciler, changes, _lock: None })
}

/// Has the rows that an opening reads one after another brought together: they may lie in different tables, or
/// far apart in one. What cannot be read now is told to who needs it.
async fn fetch_first_rows(engine: &Engine) -> Result<(), WorkerError> {
    let (superblock, root) = (keys::superblock(), keys::inode(Ino::ROOT));
    // Only where it begins: there may be much of what was deleted.
    let start_of = |queue| {
        let (from, _) = keys::below(queue, &[]);
        engine.scan(from.clone(), from, 1)
    };
    let _ = tokio::join!(
        engine.get(&superblock),
        engine.get(&root),
        start_of(keys::ORPHAN),
        start_of(keys::INTENT),
    );
    Ok(())
}

fn open_log(spec: &WorkerSpec) -> Result<Opened<Record>, WorkerError> {
    let dir = spec.state_dir.join("log");
    std::fs::create_dir_all(&dir)
        .map_err(WorkerError::local(format!("the log folder {}", dir.display())))?;
    let opened = LocalLog::open(&dir, Header::here(spec.id)?)?;
    if let Some(void) = &opened.void {
        tracing::warn!(?void, "the local log of an earlier boot is not replayed");
    }
    if let Some(damage) = &opened.damage {
        tracing::error!(?damage, "the local log is damaged; it is replayed up to there");
    }
    Ok(opened)
}

/// Whether the local log continues what the bucket holds: nobody claimed the volume since, or who did
/// made nothing durable.
fn belongs(local: &Opened<Record>, found: Option<Epoch>, applied: Option<Applied>) -> bool {
    // A takeover may crash before its first batch is durable; its log then goes on from the
    // batches of another epoch.
    Mutant::AnyLogGoesOn.lives()
        || found.is_none_or(|epoch| local.epochs.contains(&epoch))
        || match (applied, local.epochs.first()) {
            // What is older than every epoch of the log is what the log goes on from.
            (Some(applied), Some(first)) => {
                applied.epoch < *first || local.epochs.contains(&applied.epoch)
            }
            // Nothing was ever durable.
            (None, _) => true,
            (Some(_), None) => false,
        }
}

/// Whether the bucket has batches that this log lost by damage: what it takes for uncommitted may have been committed,
/// and overwritten, since.
fn falls_short(local: &Opened<Record>, applied: Option<Applied>) -> bool {
    applied.is_some_and(|applied| {
        local.epochs.contains(&applied.epoch) && applied.lsn >= local.log.next_lsn()
    })
}

/// Hands the batches that are not durable over again, in order.
async fn replay(
    engine: &Engine,
    replayed: Vec<(Lsn, Record)>,
    durable: Lsn,
    successor: Successor,
) -> Result<Fold, WorkerError> {
    let mut fold = Fold::default();
    let mut handed = 0;
    let mut late = Mutant::ReplayStartsLate.lives();
    for (lsn, record) in replayed {
        if lsn > durable && std::mem::take(&mut late) {
            continue;
        }
        fold.apply(lsn, &record);
        match record {
            Record::Op { batch, .. } | Record::Commit { batch, .. } if lsn > durable => {
                engine.accept(lsn, batch)?;
                engine.room().await?;
                // A long log is not held in memory twice.
                fold.durable(engine.durable_lsn());
                handed += 1;
            }
            _ => {}
        }
    }
    if handed > 0 {
        tracing::info!(batches = handed, "batches of the local log were handed over again");
    }
    fold.durable(durable);
    if successor == Successor::No {
        fold.opens.clear();
    }
    Ok(fold)
}

/// On a full disk what was handed over again becomes durable before anything else is logged: the log of
/// a process that died while the disk was full may have room for nothing more.
async fn make_log_room(engine: &Engine, journal: &Mutex<Journal>) -> Result<(), WorkerError> {
    if journal.lock().has_room(0) {
        return Ok(());
    }
    // Whoever opens is told when nothing moves.
    let _receipt = engine.flush(Deadline::after(STALLED * ROUNDS)).await?;
    journal.lock().durable(engine.durable_lsn())?;
    Ok(())
}

/// The first batch of an epoch: from here on the bucket says who wrote last.
async fn announce_owner(meta: &Meta, epoch: Epoch) -> Result<(), WorkerError> {
    let mut txn = meta.begin_owed().await?;
    txn.put(keys::owner(), &(epoch, crate::sys::hostname()));
    txn.commit(Logged::Op { unique: 0 }, || {}).await?;
    Ok(())
}

async fn wait_until_free(
    places: &Places,
    home: &EngineHome,
    opening: &Opening,
    epoch: Epoch,
    ours: Claiming,
) -> Result<(), WorkerError> {
    let may_be_ours = ours.may_have_made(epoch);
    let deadline = Deadline::after(HELD_BUDGET);
    let unsaid = Deadline::after(UNSAID);
    let store = places.state_store.backend();
    let mut observation = Observation::default();
    loop {
        match judge(&*store, &places.state, epoch, &mut observation, REQUEST).await? {
            Judgement::Free(why) => {
                tracing::info!(%epoch, ?why, "the volume is free");
                return Ok(());
            }
            // The lock of the state folder says that it has ended.
            Judgement::Held(holder) if ours.made(&holder) => {
                tracing::info!(%epoch, "claimed here, by a process that has ended; the volume is free");
                return Ok(());
            }
            Judgement::Held(holder)
                if holder.record.is_none() && may_be_ours && unsaid.passed() =>
            {
                tracing::info!(%epoch, "claimed here, by a process that was killed; the volume is free");
                return Ok(());
            }
            Judgement::Held(holder)
                if holder.record.is_none() && claimed_long_ago(places, home).await? =>
            {
                tracing::info!(%epoch, "its claimant never said who it is; the volume is free");
                return Ok(());
            }
            Judgement::Held(holder) if deadline.left() <= HELD_PACE => {
                return Err(WorkerError::Held(holder.to_string()));
            }
            Judgement::Held(holder) => tracing::info!(%holder, "waiting for the volume"),
        }
        tokio::time::sleep(if may_be_ours { UNSAID } else { HELD_PACE }).await;
        opening.forget();
    }
}

/// Whether the engine's last manifest, which the claim wrote, is older than a lease by the store's
/// clock. A host that died between its claim and its first lease record leaves nothing else to judge,
/// and no challenger's patience is as long as a lease.
async fn claimed_long_ago(places: &Places, home: &EngineHome) -> Result<bool, WorkerError> {
    let manifests = format!("{}/manifest/", home.folder);
    let written = places.last_written(&manifests, REQUEST).await?;
    Ok(written.is_some_and(|ago| ago >= LEASE))
}

impl From<crate::fs::FsError> for WorkerError {
    fn from(e: crate::fs::FsError) -> Self {
        WorkerError::Data(DataError::Damaged(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn an_opening_ends_soon_when_nothing_moves_and_later_when_something_does() {
        let patience = Duration::from_millis(20);
        let at_once = stalled(|| 5, patience).await;
        assert!(matches!(at_once, WorkerError::Stalled(after) if after == patience));
        let bytes = AtomicU64::new(0);
        let more = || bytes.fetch_add(LEAST_MOVED + 1, Ordering::SeqCst);
        let late = stalled(more, patience).await;
        assert!(matches!(late, WorkerError::Stalled(after) if after == patience * ROUNDS));
    }
}
