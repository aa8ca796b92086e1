//! `docker volume create`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::definition::{Definition, FORMAT, definition_key};
use super::incarnation::{Incarnation, Prepared, prepare};
use super::objects::{self, REQUEST, Replaced};
use super::remove::changed;
use super::{Catalog, CatalogError, Site, named, stores};
use crate::config::{BucketUrl, VolumeOptions};
use crate::types::VolumeName;

/// How often a new definition's neighbours are looked for while the bucket does not answer.
const LOOKS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Catalog {
    /// Creates `name`, or confirms that it exists with what `given` asks for. Within the grace of a
    /// removal it brings the volume back. Safe to repeat after any failure.
    pub async fn create(
        &self,
        name: &VolumeName,
        given: &BTreeMap<String, String>,
    ) -> Result<Definition, CatalogError> {
        let options = self.parse(given, name)?;
        let home = self.opener.open(&self.home.url, &self.defaults).await?;
        // The usual case is a new volume, or one that this host knows.
        let likely_new = self.mirror.get(name).is_none() && !options.readonly;
        if !likely_new {
            home.check().await?;
            if let Some((found, version)) = named::read(home.as_ref(), name, REQUEST).await? {
                return self.confirm(home.as_ref(), found, version, given).await;
            }
        }
        let prepared = {
            let mut preparing = std::pin::pin!(prepare(
                self.opener.as_ref(),
                &options,
                likely_new,
                Some(&self.drafts)
            ));
            // Volumes that other hosts created since the last refresh count too.
            let mut refreshing = std::pin::pin!(self.refresh(&|_| true));
            let (prepared, refreshed) = tokio::select! {
                prepared = &mut preparing => match prepared {
                    // What keeps us from the bucket takes longer to be told there.
                    Err(error @ CatalogError::Store(_)) => return Err(error),
                    prepared => (prepared, refreshing.await),
                },
                refreshed = &mut refreshing => (preparing.await, refreshed),
            };
            let exists = match likely_new && self.mirror.get(name).is_some() {
                true => named::read(home.as_ref(), name, REQUEST).await,
                false => Ok(None),
            };
            if let Ok(Some((found, version))) = exists {
                if let Ok(prepared) = &prepared {
                    self.give_up(prepared).await;
                }
                return self.confirm(home.as_ref(), found, version, given).await;
            }
            let judged = exists.and(refreshed).and_then(|()| self.refuse_overlap(name, &options));
            match (prepared, judged) {
                (Ok(prepared), Ok(())) => prepared,
                (Ok(prepared), Err(error)) => {
                    self.give_up(&prepared).await;
                    return Err(error);
                }
                // It names the other volume.
                (Err(_), Err(error @ CatalogError::Refused(_))) => return Err(error),
                (Err(error), _) => return Err(error),
            }
        };
        let (incarnation, found) = match prepared {
            Prepared::Found(found) => (found, true),
            Prepared::Free(draft) => (draft.claim(self.opener.as_ref(), &options).await?, false),
        };
        let id = incarnation.id;
        let defined = self.define(home.as_ref(), name, options, incarnation, given).await;
        match &defined {
            Ok(definition) if definition.uuid == id => {
                self.drafts.end(id).await;
                if found {
                    self.still_leads(home.as_ref(), definition).await?;
                }
            }
            // What was made for it is nobody's.
            _ => self.drafts.leave(id),
        }
        defined
    }

    /// Nothing is to be made there after all.
    async fn give_up(&self, prepared: &Prepared) {
        match prepared {
            Prepared::Free(draft) => draft.undo().await,
            // It may have been begun here.
            Prepared::Found(found) => self.drafts.leave(found.id),
        }
    }

    /// Gives a state its name. Safe to repeat.
    async fn define(
        &self,
        home: &dyn Site,
        name: &VolumeName,
        mut options: VolumeOptions,
        incarnation: Incarnation,
        given: &BTreeMap<String, String>,
    ) -> Result<Definition, CatalogError> {
        options.state_url = incarnation.state_url;
        let key = definition_key(home.prefix(), name);
        let definition = Definition {
            format: FORMAT,
            name: name.clone(),
            uuid: incarnation.id,
            created_at: rfc3339_now(),
            options,
            adopted: incarnation.adopted,
            written_by: self.host.clone(),
            removing: None,
        };
        if let Some(at) = objects::create(home.store(), &key, &definition).await? {
            tracing::info!(volume = %name, url = %definition.options.url, id = %definition.uuid,
                adopted = definition.adopted, "volume created");
            if self.home.embedded {
                tracing::warn!(volume = %name,
                    "kept inside the plugin; docker plugin rm deletes it");
            }
            self.mirror.learn(definition.clone(), Some(at), true).await?;
            self.stands_alone(home, &definition).await?;
            return Ok(definition);
        }
        match named::read(home, name, REQUEST).await? {
            Some((found, version)) => self.confirm(home, found, version, given).await,
            None => Err(CatalogError::Unknown(key.to_string())),
        }
    }

    /// Whoever began a state may take it away again until somebody has defined it, and may not have seen that yet.
    async fn still_leads(
        &self,
        home: &dyn Site,
        definition: &Definition,
    ) -> Result<(), CatalogError> {
        let led = self.entry_of(definition).await?;
        if definition.options.readonly || led.is_some_and(|led| led.uuid == definition.uuid) {
            return Ok(());
        }
        self.take_back(home, definition).await?;
        Err(CatalogError::Unknown(definition_key(home.prefix(), &definition.name).to_string()))
    }

    /// Once more: whoever defined another volume there meanwhile sees this one, or is seen. Of two that see each
    /// other neither stays. A definition that could not be looked at again stays: somebody may use it by now.
    async fn stands_alone(
        &self,
        home: &dyn Site,
        definition: &Definition,
    ) -> Result<(), CatalogError> {
        let mut looks = 1;
        while let Err(error) = self.refresh(&|_| true).await {
            if looks == LOOKS {
                return Err(error);
            }
            looks += 1;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let judged = self.refuse_overlap(&definition.name, &definition.options);
        if judged.is_err()
            && let Err(error) = self.take_back(home, definition).await
        {
            tracing::warn!(volume = %definition.name, error = &error as &dyn std::error::Error,
                "a definition that was refused could not be taken back");
        }
        judged
    }

    /// Takes a definition that was just made out of the bucket.
    async fn take_back(
        &self,
        home: &dyn Site,
        definition: &Definition,
    ) -> Result<(), CatalogError> {
        let key = definition_key(home.prefix(), &definition.name);
        let there = named::read(home, &definition.name, REQUEST).await?;
        if let Some((_, version)) = there.filter(|(now, _)| now == definition) {
            objects::delete(home.store(), &key, &version).await?;
        }
        self.mirror.change(|volumes| volumes.remove(&definition.name).is_some()).await
    }

    /// The name is taken: by the same volume, by another one, or by one being removed.
    async fn confirm(
        &self,
        home: &dyn Site,
        found: Definition,
        version: crate::types::Version,
        given: &BTreeMap<String, String>,
    ) -> Result<Definition, CatalogError> {
        let name = found.name.clone();
        let mut asked = found.options.amend(given, &self.home, &name)?;
        // Reading only is this host's own affair: nothing of it is written.
        let reads = asked.readonly && !found.options.readonly;
        if reads {
            asked.readonly = false;
        }
        let differences = found.options.differences(&asked);
        if !differences.is_empty() {
            let what = match found.removing {
                None => "exists",
                Some(_) => "was removed a short while ago and can come back as it was",
            };
            return Err(CatalogError::Refused(format!(
                "volume {name} {what} with other options: {}; leave them out to use it, or choose \
                 another name",
                differences.join(", ")
            )));
        }
        let Some(removing) = &found.removing else {
            self.mirror.learn(found.clone(), Some(version), true).await?;
            if given.keys().any(|option| option.trim().eq_ignore_ascii_case("readonly")) {
                self.mirror.read_only(&name, reads).await?;
            }
            return Ok(self.known(&name).unwrap_or(found));
        };
        if reads {
            return Err(CatalogError::Refused(format!(
                "volume {name} was removed a short while ago, so there is nothing to follow; create \
                 it without readonly=true to bring it back"
            )));
        }
        let age = home.store().now(REQUEST).await?.0 - removing.since.0;
        if removing.purging || age >= self.grace.as_millis() as i64 {
            return Err(CatalogError::Refused(format!(
                "volume {name} was removed and its objects are just being deleted; try again when \
                 that is done, or choose another name"
            )));
        }
        self.refuse_overlap(&name, &found.options)?;
        let back = Definition { removing: None, written_by: self.host.clone(), ..found.clone() };
        let key = definition_key(home.prefix(), &name);
        stores::look_up(home, home).await;
        match objects::replace(home.store(), &key, (&found, version), &back).await? {
            Replaced::Yes(at) => {
                tracing::info!(volume = %name, "brought back within the grace of its removal");
                self.mirror.learn(back.clone(), Some(at), true).await?;
                Ok(back)
            }
            Replaced::No(now) => Err(changed(&found, now)),
        }
    }

    /// Two writers of one object would each take the other's settling for outside changes.
    fn refuse_overlap(
        &self,
        name: &VolumeName,
        options: &VolumeOptions,
    ) -> Result<(), CatalogError> {
        let Ok(url) = BucketUrl::parse(&options.url) else { return Ok(()) };
        for other in self.mirror.all() {
            let other = other.definition;
            if other.name == *name || other.options.endpoint != options.endpoint {
                continue;
            }
            let Ok(theirs) = BucketUrl::parse(&other.options.url) else { continue };
            let one_writer = options.readonly || other.options.readonly;
            if url.overlaps(&theirs) && !(one_writer && url == theirs) {
                let until = match other.removing {
                    None => "",
                    Some(_) => " (which is being removed)",
                };
                return Err(CatalogError::Refused(format!(
                    "{url} overlaps with {theirs} of volume {}{until}: one of two volumes would \
                     change the other's files; use a prefix beside it, or readonly=true for the \
                     same prefix",
                    other.name
                )));
            }
        }
        Ok(())
    }
}

/// Now, as dockerd wants `CreatedAt`.
fn rfc3339_now() -> String {
    let now = crate::clock::now();
    jiff::Timestamp::from_second(now.secs).map_or_else(|_| String::new(), |t| t.to_string())
}
