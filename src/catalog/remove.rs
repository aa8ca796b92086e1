//! `docker volume rm`, and what follows after the grace.

use async_trait::async_trait;

use super::definition::{Definition, Removing, definition_key, prefix_key};
use super::ground::Ground;
use super::objects::{self, REQUEST, Replaced};
use super::{Catalog, CatalogError, Hold, PrefixEntry, Site, named};
use crate::config::BucketUrl;
use crate::store::StoreErrorKind;
use crate::types::{StoreTime, VolumeName};

/// How far a purge came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purged {
    /// Objects and state are gone.
    Done,
    /// Not now, and why; it is tried again later.
    Later(String),
    /// Nothing was deleted: this host has used the volume since it was removed.
    Used(String),
}

/// Deletes a volume's objects. It claims the volume's epoch, so that no host writes meanwhile, and
/// deletes exactly the keys that the volume recorded as its own and whose version still matches,
/// then the state.
#[async_trait]
pub trait Purge: Send + Sync + 'static {
    /// The host that holds the volume now, other than this one: `host (instance)`.
    async fn holder(&self, volume: &Definition) -> Result<Option<String>, CatalogError>;

    /// The last epoch in which the volume was used; `None` when it never was.
    async fn last_epoch(&self, _volume: &Definition) -> Result<Option<u64>, CatalogError> {
        Ok(None)
    }

    /// A host that has used the volume since it was removed.
    async fn used_since(&self, _volume: &Definition) -> Result<Option<String>, CatalogError> {
        Ok(None)
    }

    /// Must be safe to repeat after a crash at any point.
    async fn purge(&self, volume: &Definition) -> Result<Purged, CatalogError>;

    /// What is known of the holder, for somebody who wants the volume now; `None` when it is free.
    async fn hold(&self, _volume: &Definition) -> Result<Option<Hold>, CatalogError> {
        Err(cannot())
    }

    /// Ends that epoch of the volume's holder, whether it lives or not.
    async fn take_over(&self, _volume: &Definition, _epoch: u64) -> Result<(), CatalogError> {
        Err(cannot())
    }
}

fn cannot() -> CatalogError {
    CatalogError::Refused("this process takes no volume over".to_owned())
}

/// Deletes nothing: removed volumes stay marked and can be brought back. For a process that has no
/// means to read a volume's records.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetainAll;

#[async_trait]
impl Purge for RetainAll {
    async fn holder(&self, _volume: &Definition) -> Result<Option<String>, CatalogError> {
        Ok(None)
    }

    async fn purge(&self, _volume: &Definition) -> Result<Purged, CatalogError> {
        Ok(Purged::Later("this process does not delete objects".to_owned()))
    }
}

impl Catalog {
    /// Removes `name`: marks it for deletion after the grace, or only forgets it where objects are
    /// to stay. Removing an unknown volume succeeds. Refused while another host holds it, or may hold it and
    /// objects are to go.
    ///
    /// On a host that only reads what others may write, only that wish is forgotten.
    pub async fn remove(&self, name: &VolumeName, purge: &dyn Purge) -> Result<(), CatalogError> {
        let wish = |entry: super::mirror::MirrorEntry| {
            entry.readonly && !entry.definition.options.readonly
        };
        if self.defaults.readonly || self.mirror.get(name).is_some_and(wish) {
            tracing::info!(volume = %name, "no longer used read-only here; the volume stays");
            return self
                .mirror
                .change(|volumes| {
                    volumes.get_mut(name).is_some_and(|entry| {
                        entry.readonly = false;
                        entry.declared = false;
                        true
                    })
                })
                .await;
        }
        let home = self.home_to_change().await?;
        let key = definition_key(home.prefix(), name);
        let Some((found, version)) = named::read(home.as_ref(), name, REQUEST).await? else {
            return self.mirror.change(|v| v.remove(name).is_some()).await;
        };
        // The removal of one that is removed counts for those who have used it since.
        if found.removing.is_some() && purge.used_since(&found).await?.is_none() {
            return self.mirror.learn(found, Some(version), false).await;
        }
        let deletes = found.deletes() && !self.is_led_elsewhere(&found).await;
        // Before it is looked whether somebody holds it: whoever takes it after that look has a later one.
        let epoch = if deletes { purge.last_epoch(&found).await? } else { None };
        match purge.holder(&found).await {
            Ok(None) => {}
            Ok(Some(holder)) => {
                return Err(CatalogError::Refused(format!(
                    "volume {name} is in use on {holder}; stop its containers there first"
                )));
            }
            // Forgetting it takes nothing from anybody, and its bucket may never answer again.
            Err(error) if !found.deletes() => tracing::warn!(volume = %name,
                error = &error as &dyn std::error::Error,
                "its bucket does not tell whether another host uses it; it is forgotten all the same"),
            Err(error) => return Err(error),
        }
        if !deletes {
            // The by-prefix entry and the state stay: what is still in motion lives there.
            if !objects::delete(home.as_ref(), &key, &version).await? {
                let now = named::read(home.as_ref(), name, REQUEST).await?;
                return Err(changed(&found, now.map(|(now, _)| now)));
            }
            tracing::info!(volume = %name, url = %found.options.url,
                "volume forgotten; its objects stay");
            return self.mirror.change(|v| v.remove(name).is_some()).await;
        }
        let since = home.store().now(REQUEST).await?;
        let purging = found.removing.as_ref().is_some_and(|removing| removing.purging);
        let marked = Definition {
            removing: Some(Removing { since, by: self.host.clone(), epoch, purging }),
            written_by: self.host.clone(),
            ..found.clone()
        };
        let at = match objects::replace(home.store(), &key, (&found, version), &marked).await? {
            Replaced::Yes(at) => at,
            Replaced::No(now) => return Err(changed(&found, now)),
        };
        tracing::info!(volume = %name, grace = ?self.grace,
            "volume removed; its objects are deleted after the grace");
        // Also where it was not known: this host is the one that deletes it.
        self.mirror.forget(marked, at).await
    }

    /// Purges the volumes whose grace is over, and what creations left here that were cut short. Sends no request
    /// while there is neither. A host that only reads leaves it to others.
    pub async fn sweep(&self, purge: &dyn Purge) -> Result<(), CatalogError> {
        if self.defaults.readonly {
            return Ok(());
        }
        if let Err(error) = self.clear_drafts().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what a creation left that was cut short could not be looked at"
            );
        }
        let removing: Vec<Definition> = self
            .mirror
            .all()
            .into_iter()
            .map(|e| e.definition)
            .filter(|d| d.removing.is_some())
            .collect();
        if removing.is_empty() {
            return Ok(());
        }
        let home = self.home_to_change().await?;
        let now = home.store().now(REQUEST).await?;
        for known in removing {
            let name = known.name.clone();
            // One volume that cannot be deleted must not keep the others.
            if let Err(error) = self.sweep_one(home.as_ref(), known, now, purge).await {
                tracing::warn!(volume = %name, error = &error as &dyn std::error::Error,
                    "a removed volume could not be deleted; it is tried again");
            }
        }
        Ok(())
    }

    async fn sweep_one(
        &self,
        home: &dyn Site,
        known: Definition,
        now: StoreTime,
        purge: &dyn Purge,
    ) -> Result<(), CatalogError> {
        let grace = self.grace.as_millis() as i64;
        let due = |d: &Definition| {
            d.removing.as_ref().is_some_and(|r| r.purging || now.0 - r.since.0 >= grace)
        };
        if !due(&known) {
            return Ok(());
        }
        let name = known.name;
        let key = definition_key(home.prefix(), &name);
        // The mirror may be behind a revival on another host.
        let Some((found, mut version)) = named::read(home, &name, REQUEST).await? else {
            return self.mirror.change(|v| v.remove(&name).is_some()).await;
        };
        if !due(&found) {
            return self.mirror.learn(found, Some(version), false).await;
        }
        // A revival that read the entry within the grace must not win after its objects are gone.
        let mut purging = Definition { written_by: self.host.clone(), ..found.clone() };
        if let Some(removing) = purging.removing.as_mut().filter(|r| !r.purging) {
            removing.purging = true;
            let replaced =
                objects::replace(home.store(), &key, (&found, version), &purging).await?;
            if let Replaced::No(now) = replaced {
                let error = changed(&found, now);
                tracing::info!(volume = %name, %error, "not deleted");
                return Ok(());
            }
            match named::read(home, &name, REQUEST).await? {
                Some((now, at)) if now == purging => version = at,
                _ => return Ok(()),
            }
        } else {
            purging = found;
        }
        let found = purging;
        if let Err(error) = self.drafts.purges(&found).await {
            // A full disk keeps nothing from being deleted.
            tracing::warn!(volume = %name, %error, "the deletion is not noted on this host");
        }
        let purged = purge.purge(&found).await;
        self.drafts.leave(found.uuid);
        match purged? {
            Purged::Later(why) => tracing::info!(volume = %name, why, "not deleted yet"),
            Purged::Used(host) => {
                let back = Definition { removing: None, ..found.clone() };
                let replaced =
                    objects::replace(home.store(), &key, (&found, version), &back).await?;
                if let Replaced::Yes(at) = replaced {
                    tracing::warn!(volume = %name, host, "the volume was used again after it was removed, so \
                        nothing of it is deleted; remove it once more if it is to go");
                    self.mirror.learn(back, Some(at), false).await?;
                }
            }
            Purged::Done => {
                self.forget_prefix(&found).await?;
                if objects::delete(home, &key, &version).await? {
                    tracing::info!(volume = %name, "the removed volume is deleted");
                    self.mirror.change(|v| v.remove(&name).is_some()).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether the place has another state by now: it was rebuilt, and the objects are that one's.
    async fn is_led_elsewhere(&self, volume: &Definition) -> bool {
        match self.entry_of(volume).await {
            Ok(entry) => entry.is_some_and(|entry| entry.uuid != volume.uuid),
            Err(error) => {
                // Whoever deletes looks at the state itself.
                tracing::debug!(volume = %volume.name, %error, "what its place leads to is not known");
                false
            }
        }
    }

    pub(super) async fn entry_of(
        &self,
        volume: &Definition,
    ) -> Result<Option<PrefixEntry>, CatalogError> {
        Ground::open(self.opener.as_ref(), &volume.options).await?.entry().await
    }

    /// Follows the place of `volume` to the state that it has now, after it was rebuilt. `None` when it still
    /// is the one of the definition, or none.
    pub async fn follow(&self, volume: &Definition) -> Result<Option<Definition>, CatalogError> {
        let Some(led) = self.entry_of(volume).await? else { return Ok(None) };
        if led.uuid == volume.uuid {
            return Ok(None);
        }
        let home = self.home_to_change().await?;
        let key = definition_key(home.prefix(), &volume.name);
        let Some((found, version)) = named::read(home.as_ref(), &volume.name, REQUEST).await?
        else {
            return Ok(None);
        };
        if found.removing.is_some() {
            return Ok(None);
        }
        if found.uuid == led.uuid {
            // It leads there already; only this host did not know.
            self.mirror.learn(found.clone(), Some(version), false).await?;
            return Ok(Some(found));
        }
        if found.uuid != volume.uuid {
            return Ok(None);
        }
        let mut now = Definition {
            uuid: led.uuid,
            adopted: led.adopted,
            written_by: self.host.clone(),
            ..found.clone()
        };
        now.options.state_url = led.state_url;
        match objects::replace(home.store(), &key, (&found, version), &now).await? {
            Replaced::Yes(at) => {
                tracing::info!(volume = %volume.name, from = %found.uuid, to = %now.uuid,
                    "the volume was rebuilt; its name leads to the new state from now on");
                self.mirror.learn(now.clone(), Some(at), false).await?;
                Ok(Some(now))
            }
            Replaced::No(other) => Err(changed(&found, other)),
        }
    }

    /// Frees the prefix of a purged volume, if it still is that volume's.
    async fn forget_prefix(&self, volume: &Definition) -> Result<(), CatalogError> {
        let (Ok(url), Ok(state_url)) =
            (BucketUrl::parse(&volume.options.url), BucketUrl::parse(&volume.options.state_url))
        else {
            return Ok(());
        };
        let state = self.opener.open(&state_url, &volume.options).await?;
        let key = prefix_key(state.prefix(), &url);
        let entry = match objects::read::<PrefixEntry>(state.store(), &key, REQUEST).await {
            // It went with its bucket.
            Err(CatalogError::Store(error)) if error.kind == StoreErrorKind::NoBucket => None,
            entry => entry?,
        };
        if let Some((entry, version)) = entry
            && entry.uuid == volume.uuid
        {
            objects::delete(state.as_ref(), &key, &version).await?;
        }
        Ok(())
    }
}

/// Why a record was not changed, as it was looked at after that.
pub(super) fn changed(before: &Definition, now: Option<Definition>) -> CatalogError {
    let name = &before.name;
    CatalogError::Refused(match now {
        Some(now) => format!(
            "volume {name} was changed by another host at the same time: {}; try again",
            before.changed_to(&now)
        ),
        None => format!(
            "volume {name} was taken out of the catalog by another host at the same time; try again"
        ),
    })
}
