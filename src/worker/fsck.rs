//! `s3vol fsck`: finds the volume, checks it, and mends what is agreed to.
//!
//! A check reads, and takes nothing. Mending claims the epoch and the lease as a mount does, writes rows in
//! batches of its own, and looks at the volume again until there is nothing left that it may mend; so one that is
//! cut short at any moment leaves a volume that is a little better. What the volume mends by itself when it looks
//! at a key is left to it: it is opened for that.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::format::{Format, Unchecked, applied, unreadable};
use super::life::{COMMIT_BUDGET, Shared, open_locked, tasks};
use super::places::{Places, places};
use super::{Mounted, Successor, WorkerError, WorkerSpec, leave, recovery};
use crate::catalog::{Incarnation, Opener, Stores, Trace, VolumeFormat, lead_to, trace};
use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::fsck::{
    Change, Finding, FsckError, How, Kind, Mend, Outcome, Parts, Report, Watch, check,
    unreadable as without_records,
};
use crate::lease::{Judgement, Keeper, KeeperConfig, Observation, judge, last_epoch};
use crate::meta::log::StateDirLock;
use crate::meta::records::encode;
use crate::meta::{Batch, Engine, EngineConfig, Follower, keys};
use crate::store::{Known, Send, Verb};
use crate::types::{Epoch, Lsn, VolumeId};

const REQUEST: Duration = Duration::from_secs(15);
const OPEN: Duration = Duration::from_secs(120);
const CLOSE: Duration = Duration::from_secs(30);
/// What was mended may show what lies behind it, some times in a row.
const ROUNDS: usize = 6;
/// Rows changed in one batch.
const BATCH: usize = 1000;

/// A volume by its place, and where this host keeps things of its volumes.
#[derive(Debug, Clone)]
pub struct VolumeAt {
    pub options: VolumeOptions,
    /// Folder of the local folders of volumes.
    pub volumes: PathBuf,
    /// Where this host keeps what it knows of stores.
    pub stores: PathBuf,
}

impl VolumeAt {
    pub(super) fn opener(&self) -> Stores {
        Stores::knowing(Known::in_folder(&self.stores))
    }

    /// As whoever opens it for work of its own needs it.
    pub(super) fn spec(&self, id: VolumeId) -> WorkerSpec {
        let local = WorkerSpec::local_name(id, false, b"");
        WorkerSpec {
            name: self.options.url.clone(),
            id,
            options: self.options.clone(),
            state_dir: self.volumes.join(&local),
            control_socket: PathBuf::new(),
            stores: self.stores.clone(),
            mountpoint: PathBuf::new(),
        }
    }
}

/// Answers whether a finding is to be mended that may lose something.
pub type Agree<'a> = &'a mut (dyn FnMut(&Finding) -> bool + std::marker::Send);

/// How a volume is checked.
pub struct FsckHow<'a> {
    /// Reads all content.
    pub data: bool,
    /// Names every finding, however many there are.
    pub all: bool,
    /// Mends; needs the lease.
    pub repair: Option<Agree<'a>>,
}

impl std::fmt::Debug for FsckHow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FsckHow").field("data", &self.data).finish_non_exhaustive()
    }
}

/// Checks the volume at a place, and mends it if that is asked for.
///
/// # Errors
/// When there is no volume, when the bucket does not answer, and, with `repair`, when somebody uses the
/// volume or this host has changes of it that are not in the bucket.
pub async fn fsck(
    at: &VolumeAt,
    how: FsckHow<'_>,
    watch: Watch<'_>,
) -> Result<Report, WorkerError> {
    let opener = at.opener();
    let traced = trace(&opener, &at.options).await?;
    let Some(found) = traced.state(&at.options) else {
        return Err(WorkerError::NoVolume(at.options.url.clone()));
    };
    let mut at = at.clone();
    at.options.state_url = found.state_url.clone();
    let spec = at.spec(found.id);
    let places = places(found.id, &at.options, &spec.known())?;
    let mut volume =
        Checked { at, found, places, spec, data: how.data, all: how.all, declined: HashSet::new() };
    match how.repair {
        None => volume.look(traced, watch).await,
        // In boxes, this and its steps: what they await is deep, and a thread has 2 MiB of stack.
        Some(agree) => Box::pin(volume.mend(traced, agree, watch)).await,
    }
}

/// The same as [`fsck`] with `data` over stores that are open; mends nothing.
pub(super) async fn look_in(
    spec: &WorkerSpec,
    opener: &dyn Opener,
    places: Places,
) -> Result<Report, WorkerError> {
    let traced = trace(opener, &spec.options).await?;
    let Some(found) = traced.state(&spec.options) else {
        return Err(WorkerError::NoVolume(spec.options.url.clone()));
    };
    let at = VolumeAt {
        options: spec.options.clone(),
        volumes: spec.state_dir.clone(),
        stores: spec.stores.clone(),
    };
    let spec = spec.clone();
    let (data, all) = (true, false);
    let volume = Checked { at, found, places, spec, data, all, declined: HashSet::new() };
    volume.look(traced, &mut |_| {}).await
}

/// A volume that was found.
struct Checked {
    at: VolumeAt,
    found: Incarnation,
    places: Places,
    spec: WorkerSpec,
    data: bool,
    all: bool,
    /// What was asked once and not agreed to.
    declined: HashSet<(Kind, String, String)>,
}

fn called(finding: &Finding) -> (Kind, String, String) {
    (finding.kind, finding.what.clone(), finding.detail.clone())
}

/// What leads to the volume.
fn catalog(traced: &Trace, found: &Incarnation, url: &str, report: &mut Report) {
    let what = format!("the by-prefix entry of {url}");
    if let Some(key) = &traced.unreadable_entry {
        report.found(Kind::Catalog, what, format!("{key} cannot be read"), Mend::Entry);
    } else if traced.entry.is_none() {
        let detail = format!("is missing; its objects or its definition lead to {}", found.id);
        report.found(Kind::Catalog, what, detail, Mend::Entry);
    }
    for definition in traced.definitions.iter().filter(|d| d.uuid != found.id) {
        let what = format!("the definition of volume {}", definition.name);
        let detail = format!("leads to {}, and its place to {}", definition.uuid, found.id);
        let cure = Mend::No(
            "remove the volume by that name, which leaves its objects, and create it again",
        );
        report.found(Kind::Catalog, what, detail, cure);
    }
    for key in &traced.unreadable {
        let cure = Mend::No("remove the object, and create its volume again");
        report.found(Kind::Catalog, key.clone(), "a definition cannot be read", cure);
    }
}

/// The state that can be checked, or why not.
enum Ground {
    Sound(Box<VolumeFormat>),
    /// `format.json` is missing or another's.
    Broken(String),
}

impl Checked {
    fn parts(&self, epoch: Epoch, known: &VolumeFormat) -> Parts {
        Parts {
            folder: known.engine.folder.clone(),
            id: self.found.id,
            store: self.places.store.backend(),
            prefix: self.places.prefix.clone(),
            state_store: self.places.state_store.backend(),
            state: self.places.state.clone(),
            one_bucket: self.places.same_bucket,
            epoch,
        }
    }

    fn how(&self, in_use: bool) -> How {
        How { data: self.data, in_use, all: self.all }
    }

    fn format(&self) -> Format {
        Format::of(&self.places, self.found.id)
    }

    async fn ground(&self) -> Result<Ground, WorkerError> {
        let format = self.format();
        if let Err(WorkerError::Damaged(why)) = format.read_present().await {
            return Ok(Ground::Broken(why));
        }
        // Refuses another endpoint, as a mount would: it may be another copy.
        let (known, _) = format.open(&self.places).await?;
        if !known.engine.is_readable() {
            return Err(unreadable(&known.engine, "only that version can check it"));
        }
        Ok(Ground::Sound(Box::new(known)))
    }

    /// A report on what is found before the records are.
    fn begun(&self, traced: &Trace, in_use: bool) -> Report {
        let mut report = Report::of(self.how(in_use));
        catalog(traced, &self.found, &self.at.options.url, &mut report);
        report
    }

    fn without_format(&self, traced: &Trace, why: String) -> Report {
        let mut report = self.begun(traced, false);
        let cure = Mend::No("`s3vol rebuild` makes a new state from the objects");
        report.found(Kind::Catalog, "format.json", why, cure);
        report.cannot_judge("the records: format.json does not tell where they are");
        report
    }

    async fn epoch(&self, known: &VolumeFormat) -> Result<Option<Epoch>, WorkerError> {
        let store = self.places.state_store.engine(&self.places.state)?.into_inner();
        let home = &known.engine;
        Ok(Engine::writer_epoch(&store, &home.folder, home.after).await?)
    }

    /// Whether somebody uses it; the text says who.
    async fn holder(&self, epoch: Option<Epoch>) -> Result<Option<String>, WorkerError> {
        let Some(epoch) = epoch else { return Ok(None) };
        let store = self.places.state_store.backend();
        let mut seen = Observation::default();
        match judge(&*store, &self.places.state, epoch, &mut seen, REQUEST).await {
            Ok(Judgement::Free(_)) => Ok(None),
            Ok(Judgement::Held(holder)) => Ok(Some(holder.to_string())),
            // A finding; who holds the volume cannot be told.
            Err(crate::lease::LeaseError::Unreadable { .. }) => Ok(Some(
                "its lease cannot be read, so that nobody can tell whether it is in use".to_owned(),
            )),
            Err(error) => Err(error.into()),
        }
    }

    async fn look(&self, traced: Trace, watch: Watch<'_>) -> Result<Report, WorkerError> {
        let known = match self.ground().await? {
            Ground::Sound(known) => known,
            Ground::Broken(why) => return Ok(self.without_format(&traced, why)),
        };
        let epoch = match self.epoch(&known).await {
            Ok(epoch) => epoch,
            Err(WorkerError::Engine(error)) => {
                let (parts, how) = (self.parts(Epoch(0), &known), self.how(false));
                let damaged = without_records(error.into(), &parts, how).await?;
                return Ok(self.joined(&traced, damaged));
            }
            Err(error) => return Err(error),
        };
        let in_use = self.holder(epoch).await?.is_some();
        self.one_check(&traced, &known, epoch.unwrap_or(known.engine.after), in_use, watch).await
    }

    fn joined(&self, traced: &Trace, records: Report) -> Report {
        let mut report = self.begun(traced, records.in_use);
        report.not_judged = records.not_judged;
        report.checked = records.checked;
        report.findings.extend(records.findings);
        for (kind, count) in records.counts {
            *report.counts.entry(kind).or_default() += count;
        }
        report
    }

    async fn one_check(
        &self,
        traced: &Trace,
        known: &VolumeFormat,
        epoch: Epoch,
        in_use: bool,
        watch: Watch<'_>,
    ) -> Result<Report, WorkerError> {
        let parts = self.parts(epoch, known);
        let how = self.how(in_use);
        let store = self.places.state_store.engine(&self.places.state)?.into_inner();
        let opened = Follower::open(store, &known.engine.folder, None, Deadline::after(OPEN)).await;
        let records = match opened {
            Ok(Some(follower)) => check(&follower, &parts, how, watch).await?,
            Ok(None) => {
                let mut report = Report::of(self.how(in_use));
                self.unwritten(&mut report).await?;
                report
            }
            Err(error) => without_records(FsckError::from(error), &parts, how).await?,
        };
        let mut report = self.joined(traced, records);
        if in_use {
            report.cannot_judge(
                "what is written just now, and what this volume's host holds locally",
            );
        }
        Ok(report)
    }

    /// A volume that nobody ever mounted has no records; one that has a lease has lost them.
    async fn unwritten(&self, report: &mut Report) -> Result<(), WorkerError> {
        let store = self.places.state_store.backend();
        if last_epoch(&*store, &self.places.state, REQUEST).await?.is_some() {
            let cure = Mend::No("`s3vol rebuild` makes new ones from the objects");
            report.found(Kind::Engine, "the records of the volume", "are gone", cure);
            report.cannot_judge("everything else: there are no records");
        }
        Ok(())
    }

    async fn mend(
        &mut self,
        traced: Trace,
        agree: Agree<'_>,
        watch: Watch<'_>,
    ) -> Result<Report, WorkerError> {
        let known = match self.ground().await? {
            Ground::Sound(known) => known,
            Ground::Broken(why) => return Ok(self.without_format(&traced, why)),
        };
        let lock = leave::lock(&self.spec.state_dir).await?;
        let unsynced = recovery::has_unsynced(&self.spec.state_dir)
            .map_err(WorkerError::local(self.spec.state_dir.display().to_string()))?;
        if unsynced {
            return Err(WorkerError::Held(format!(
                "this host has changes of the volume that are not in the bucket ({}): mount it here once and \
                 unmount it, or give another --state, and they are set aside when it is mounted next",
                self.spec.state_dir.display()
            )));
        }
        let found = self.epoch(&known).await?;
        if let Some(holder) = self.holder(found).await? {
            return Err(WorkerError::Held(holder));
        }
        let Some(epoch) = found else {
            return self.one_check(&traced, &known, known.engine.after, false, watch).await;
        };
        // Of a volume that is whole, or whose records cannot be believed, nothing is claimed.
        let report = self.one_check(&traced, &known, epoch, false, &mut *watch).await?;
        let mendable = |finding: &Finding| !matches!(finding.mend, Mend::No(_));
        if report.counts.contains_key(&Kind::Engine) || !report.findings.iter().any(mendable) {
            return Ok(report);
        }
        let held = Held::claim(&self.places, &known, epoch).await?;
        let rows = Box::pin(self.mend_rows(&traced, &known, &held, agree, &mut *watch)).await;
        held.release().await?;
        let (mut report, before, looks) = rows?;
        if !looks.is_empty() {
            Box::pin(self.open_and_look(&looks, &lock)).await?;
            let epoch = self.epoch(&known).await?.unwrap_or(epoch);
            report = self.one_check(&traced, &known, epoch, false, watch).await?;
        }
        // What is not there any more was mended.
        let left: HashSet<_> = report.findings.iter().map(called).collect();
        for mut finding in before {
            if !left.contains(&called(&finding)) {
                finding.outcome = Outcome::Mended;
                *report.counts.entry(finding.kind).or_default() += 1;
                report.findings.push(finding);
            }
        }
        Ok(report)
    }

    /// Checks and mends in turns. Returns the last report, the findings that were seen before it, and those
    /// that the volume itself can mend.
    async fn mend_rows(
        &mut self,
        traced: &Trace,
        known: &VolumeFormat,
        held: &Held,
        agree: Agree<'_>,
        watch: Watch<'_>,
    ) -> Result<(Report, Vec<Finding>, Vec<Finding>), WorkerError> {
        let mut again: Option<Trace> = None;
        let mut before: Vec<Finding> = Vec::new();
        for round in 0.. {
            let epoch = held.engine.epoch();
            let led = again.as_ref().unwrap_or(traced);
            let report = self.one_check(led, known, epoch, false, &mut *watch).await?;
            let todo: Vec<&Finding> =
                report.findings.iter().filter(|finding| self.agreed(finding, agree)).collect();
            let (looks, now): (Vec<&Finding>, Vec<&Finding>) =
                todo.into_iter().partition(|finding| matches!(finding.mend, Mend::Look(..)));
            if now.is_empty() || round >= ROUNDS {
                let looks: Vec<Finding> = looks.into_iter().cloned().collect();
                before.extend(report.findings.iter().filter(|f| looks.contains(f)).cloned());
                return Ok((report, before, looks));
            }
            for finding in &now {
                if !before.iter().any(|seen| called(seen) == called(finding)) {
                    before.push((*finding).clone());
                }
            }
            for finding in now.iter().filter(|finding| finding.mend == Mend::Entry) {
                tracing::info!(%finding, "written again");
                let opener = self.at.opener();
                lead_to(&opener, &self.at.options, &self.found).await?;
                again = Some(trace(&opener, &self.at.options).await?);
            }
            held.change(&self.places, &now).await?;
        }
        unreachable!("the loop returns")
    }

    fn agreed(&mut self, finding: &Finding, agree: Agree<'_>) -> bool {
        if matches!(finding.mend, Mend::No(_)) || self.declined.contains(&called(finding)) {
            return false;
        }
        let agreed = finding.mend.question().is_none() || agree(finding);
        if !agreed {
            self.declined.insert(called(finding));
        }
        agreed
    }

    /// Opens the volume as a mount does, and has it look at keys that others changed.
    async fn open_and_look(
        &self,
        looks: &[Finding],
        lock: &StateDirLock,
    ) -> Result<(), WorkerError> {
        let mut mounted = open_locked(&self.spec, Successor::No, lock).await?;
        let shared = Shared::new(self.spec.clone(), &mounted);
        let _watched = tasks::unattended(&shared, &mut mounted);
        let looked = look_at(&mounted, looks).await;
        shared.seal(COMMIT_BUDGET, Duration::ZERO).await?;
        shared.export().await;
        shared.release().await?;
        looked
    }
}

async fn look_at(mounted: &Mounted, looks: &[Finding]) -> Result<(), WorkerError> {
    for finding in looks {
        if let Mend::Look(key, _) = &finding.mend {
            mounted.reconciler.recheck_key(key).await?;
        }
    }
    Ok(())
}

/// The volume, held for changing rows.
pub(super) struct Held {
    engine: Engine,
    keeper: Keeper,
    next: parking_lot::Mutex<Lsn>,
}

impl Held {
    pub async fn claim(
        places: &Places,
        known: &VolumeFormat,
        epoch: Epoch,
    ) -> Result<Held, WorkerError> {
        let store = places.state_store.engine(&places.state)?.into_inner();
        let mut config = EngineConfig::new(store, known.engine.folder.clone(), Some(epoch));
        config.after = known.engine.after;
        config.if_match = known.state_capabilities.has(Verb::PutIfMatch);
        let engine = Engine::open(config).await?;
        let config = KeeperConfig::new(
            places.state_store.backend(),
            places.state.clone(),
            engine.epoch(),
            crate::sys::hostname(),
            Arc::new(Unchecked),
        );
        let keeper = Keeper::start(config, Deadline::after(REQUEST)).await?;
        let next = engine.applied().map_or(Lsn(1), |applied| Lsn(applied.lsn.0 + 1));
        Ok(Held { engine, keeper, next: parking_lot::Mutex::new(next) })
    }

    async fn change(&self, places: &Places, findings: &[&Finding]) -> Result<(), WorkerError> {
        let mut changes: Vec<&Change> = Vec::new();
        if findings.iter().any(|finding| matches!(finding.mend, Mend::Delete(_))) {
            // The log of a host that crashed may refer to what is deleted. It goes on only while nothing is
            // durable that is newer.
            self.confirm().await?;
        }
        for finding in findings {
            match &finding.mend {
                Mend::Rows(rows) | Mend::Ask(_, rows) => changes.extend(rows),
                Mend::Delete(key) => {
                    self.still_ours().await?;
                    let store = places.state_store.backend();
                    applied(store.delete(key, Send::plain(REQUEST)).await)?;
                }
                Mend::No(_) | Mend::Look(..) | Mend::Entry => {}
            }
        }
        for some in changes.chunks(BATCH) {
            self.still_ours().await?;
            let mut batch = Batch::new();
            for change in some {
                match &change.value {
                    Some(value) => batch.put(change.key.clone(), value.clone()),
                    None => batch.delete(change.key.clone()),
                }
            }
            self.write(batch).await?;
        }
        Ok(())
    }

    /// Proves that no other epoch has begun, with a batch that is durable when this returns.
    pub async fn confirm(&self) -> Result<(), WorkerError> {
        let mut batch = Batch::new();
        batch.put(keys::owner(), encode(&(self.engine.epoch(), crate::sys::hostname())));
        self.write(batch).await
    }

    /// Durable when this returns.
    async fn write(&self, batch: Batch) -> Result<(), WorkerError> {
        let lsn = {
            let mut next = self.next.lock();
            let lsn = *next;
            *next = Lsn(lsn.0 + 1);
            lsn
        };
        self.engine.write(lsn, batch).await?;
        let _receipt = self.engine.flush(Deadline::after(REQUEST * 2)).await?;
        Ok(())
    }

    async fn still_ours(&self) -> Result<(), WorkerError> {
        self.keeper.follow(self.engine.epoch(), Deadline::after(REQUEST)).await?;
        match self.keeper.authority() {
            Some(_) => Ok(()),
            None => Err(WorkerError::Held(
                "the lease could not be renewed; nothing more is changed".into(),
            )),
        }
    }

    /// Not released before the engine is closed: another host may take the volume right after.
    pub async fn release(self) -> Result<(), WorkerError> {
        let closed = self.engine.close(Deadline::after(CLOSE)).await;
        let released = self.keeper.release(self.engine.epoch(), None, REQUEST).await;
        self.keeper.stop().await;
        closed?;
        released?;
        Ok(())
    }
}
