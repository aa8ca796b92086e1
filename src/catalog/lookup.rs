//! Learning what other hosts did: one name at once, all names in the background.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::definition::{Definition, definition_key};
use super::ground::Ground;
use super::mirror::{Mirror, MirrorEntry};
use super::{Catalog, CatalogError, Opener, Site, named};
use crate::clock::Deadline;
use crate::config::{BucketUrl, VolumeOptions};
use crate::store::{StoreError, StoreErrorKind};
use crate::types::{VolumeId, VolumeName};

/// Every `docker run -v anything:` asks every plugin, so an unknown name may cost this much.
const LOOKUP: Duration = Duration::from_millis(500);
/// After a lookup failed, names are unknown at once for this long.
const PAUSE: Duration = Duration::from_secs(30);
/// Pause between background refreshes.
const REFRESH: Duration = Duration::from_secs(60);
/// The same after all volumes were listed, so that a listing in a loop costs little.
const LISTED: Duration = Duration::from_secs(10);
/// For one request of a refresh, which nobody waits for.
const REFRESH_REQUEST: Duration = Duration::from_secs(20);
/// Definitions read at the same time.
const PARALLEL: usize = 8;

/// Says which volumes must stay known.
pub type Keep<'k> = &'k (dyn Fn(&VolumeName) -> bool + Send + Sync);

/// The definition of a volume as it lies in a home, for who keeps no copy of it.
pub async fn defined_in(
    opener: &dyn Opener,
    home: &BucketUrl,
    defaults: &VolumeOptions,
    name: &VolumeName,
) -> Result<Option<Definition>, CatalogError> {
    let site = opener.open(home, defaults).await?;
    let found = named::read(site.as_ref(), name, REFRESH_REQUEST).await?;
    Ok(found.map(|(definition, _)| definition))
}

/// The names in a home, for who looks whether one of them leads to a state.
#[derive(Debug)]
pub(super) struct Names {
    pub opener: Arc<dyn Opener>,
    pub home: BucketUrl,
    pub defaults: VolumeOptions,
    pub mirror: Arc<Mirror>,
}

impl Names {
    /// Whether a name leads to `id`, as it is in the bucket now: here, or in the home where its state lies. Only what the
    /// mirror does not know is read.
    pub async fn lead_to(&self, id: VolumeId, ground: &Ground) -> Result<bool, CatalogError> {
        let home = self.opener.open(&self.home, &self.defaults).await?;
        if self.lead_from(home.as_ref(), id, |name| self.mirror.get(name)).await? {
            return Ok(true);
        }
        match ground.state_url == self.home {
            true => Ok(false),
            false => self.lead_from(ground.state.as_ref(), id, |_| None).await,
        }
    }

    async fn lead_from(
        &self,
        home: &dyn Site,
        id: VolumeId,
        known: impl Fn(&VolumeName) -> Option<MirrorEntry>,
    ) -> Result<bool, CatalogError> {
        let mut unknown = Vec::new();
        for (name, version) in named::list(home, REFRESH_REQUEST).await? {
            let known = known(&name);
            match known.filter(|e| e.version.as_ref().is_some_and(|at| at.same(&version))) {
                Some(known) if known.definition.uuid == id => return Ok(true),
                Some(_) => {}
                None => unknown.push(name),
            }
        }
        for some in unknown.chunks(PARALLEL) {
            let led = some.iter().map(|name| leads_to(home, name, id));
            for leads in futures::future::join_all(led).await {
                if leads? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

async fn leads_to(home: &dyn Site, name: &VolumeName, id: VolumeId) -> Result<bool, CatalogError> {
    match named::read(home, name, REFRESH_REQUEST).await {
        Ok(found) => Ok(found.is_some_and(|(found, _)| found.uuid == id)),
        // What cannot be read leads nowhere.
        Err(error) if error.is_of_one() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Remembers that the bucket does not answer.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Option<Deadline>>);

impl Breaker {
    fn is_open(&self) -> bool {
        self.0.lock().is_some_and(|until| !until.passed())
    }

    fn trip(&self) {
        *self.0.lock() = Some(Deadline::after(PAUSE));
    }

    fn reset(&self) {
        *self.0.lock() = None;
    }
}

impl Catalog {
    /// The definition of `name`: from memory, or, unless capture is off, from the bucket within
    /// 500 ms. An error means that nobody can say.
    pub async fn lookup(&self, name: &VolumeName) -> Result<Option<Definition>, CatalogError> {
        if let Some(known) = self.known(name) {
            return Ok(Some(known));
        }
        if !self.capture {
            return Ok(None);
        }
        if self.breaker.is_open() {
            return Err(unreachable(name, None));
        }
        let found = tokio::time::timeout(LOOKUP, self.fetch(name, LOOKUP)).await;
        match found {
            Ok(Ok(found)) => {
                self.breaker.reset();
                let found = found.filter(|d| d.removing.is_none());
                Ok(found.and_then(|d| self.known(&d.name)))
            }
            Ok(Err(CatalogError::Store(error))) if error.is_transient() => {
                self.breaker.trip();
                Err(unreachable(name, Some(error)))
            }
            Ok(Err(error)) => {
                // What one record says is nothing that other names have to wait for.
                if !error.is_of_one() {
                    self.breaker.trip();
                }
                Err(error)
            }
            Err(_) => {
                self.breaker.trip();
                Err(unreachable(name, None))
            }
        }
    }

    /// Reads one definition from the bucket into the mirror.
    pub(super) async fn fetch(
        &self,
        name: &VolumeName,
        timeout: Duration,
    ) -> Result<Option<Definition>, CatalogError> {
        let home = self.opener.open(&self.home.url, &self.defaults).await?;
        match named::read(home.as_ref(), name, timeout).await? {
            Some((definition, version)) => {
                self.mirror.learn(definition.clone(), Some(version), false).await?;
                Ok(Some(definition))
            }
            None => Ok(None),
        }
    }

    /// Brings the mirror up to date. Volumes that `keep` names stay even if the bucket lost them,
    /// because dockerd forgets what a Get denies.
    pub async fn refresh(&self, keep: Keep<'_>) -> Result<(), CatalogError> {
        let home = self.opener.open(&self.home.url, &self.defaults).await?;
        let listed = named::list(home.as_ref(), REFRESH_REQUEST).await?;
        let changed: Vec<VolumeName> = listed
            .iter()
            .filter(|(name, version)| {
                let known = self.mirror.get(name).and_then(|e| e.version);
                !known.is_some_and(|known| known.same(version))
            })
            .map(|(name, _)| name.clone())
            .collect();
        for some in changed.chunks(PARALLEL) {
            let read = some.iter().map(|name| self.fetch(name, REFRESH_REQUEST));
            for (name, read) in some.iter().zip(futures::future::join_all(read).await) {
                match read {
                    Ok(_) => {}
                    // One unreadable definition must not hide the others.
                    Err(error) if error.is_of_one() => {
                        tracing::warn!(volume = %name, error = &error as &dyn std::error::Error,
                            "definition skipped");
                    }
                    Err(error) => return Err(error),
                }
            }
        }

        let gone = self.mirror.all().into_iter().map(|MirrorEntry { definition, .. }| definition);
        for definition in gone.filter(|d| !listed.contains_key(&d.name) && !keep(&d.name)) {
            // A listing may be behind; only a second look makes a volume unknown.
            let key = definition_key(home.prefix(), &definition.name);
            if home.store().head(&key, REFRESH_REQUEST).await?.is_none() {
                tracing::info!(volume = %definition.name, "no longer in the catalog");
                self.mirror.change(|v| v.remove(&definition.name).is_some()).await?;
            }
        }
        self.breaker.reset();
        Ok(())
    }

    /// Refreshes every 60 s while somebody asks, sooner when somebody lists, and removes what is
    /// due with `purge`. Runs until dropped.
    pub async fn keep_fresh(&self, keep: Keep<'_>, purge: &dyn super::Purge) {
        let mut first = true;
        let listed = crate::fault::duration(crate::fault::LISTED, LISTED);
        loop {
            if !std::mem::take(&mut first) {
                tokio::time::sleep(listed).await;
                tokio::select! {
                    () = tokio::time::sleep(REFRESH.saturating_sub(listed)) => {}
                    () = self.listed.notified() => {}
                }
            }
            if self.asked.swap(false, Ordering::Relaxed) {
                match self.refresh(keep).await {
                    Ok(()) => tracing::debug!("catalog refreshed"),
                    Err(error) => {
                        tracing::warn!(%error, "the catalog could not be refreshed");
                        // What was asked is still to be answered.
                        self.asked.store(true, Ordering::Relaxed);
                        continue;
                    }
                }
            }
            if let Err(error) = self.sweep(purge).await {
                tracing::warn!(%error, "removed volumes could not be cleaned up");
            }
        }
    }
}

fn unreachable(name: &VolumeName, cause: Option<StoreError>) -> CatalogError {
    let message = format!(
        "volume {name} is not known on this host, and the bucket with the catalog does not answer; \
         try again when it does"
    );
    let source = cause.map(|e| Box::new(e) as Box<dyn std::error::Error + Send + Sync>);
    StoreError { kind: StoreErrorKind::Unreachable, message, source }.into()
}
