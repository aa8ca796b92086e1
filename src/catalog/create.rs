//! `docker volume create`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::definition::{Definition, FORMAT, VolumeFormat, definition_key, format_key};
use super::drafts::{mark_named, open_again};
use super::ground::Ground;
use super::incarnation::{Prepared, prepare};
use super::objects::{self, REQUEST, Replaced};
use super::remove::changed;
use super::rights::require;
use super::{Catalog, CatalogError, Incarnation, Site, named, stores};
use crate::config::{BucketUrl, Difference, VolumeOptions};
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
        // What credentials may do is asked of the place where the volume is, if it exists.
        if !likely_new || options.credentials.is_some() {
            home.check().await?;
            if let Some((found, version)) = named::read(home.as_ref(), name, REQUEST).await? {
                return self.confirm(home.as_ref(), found, version, given).await;
            }
        }
        require(self.opener.as_ref(), &options).await?;
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
        let led = match prepared {
            Prepared::Found(led) => led,
            Prepared::Free(draft) => draft.claim(self.opener.as_ref(), &options).await?,
        };
        let id = led.to.id;
        let defined = async {
            if led.found && !options.readonly {
                let state_url = led.to.state_url.clone();
                let there = VolumeOptions { state_url, ..options.clone() };
                let ground = Ground::open(self.opener.as_ref(), &there).await?;
                if ground.state_url != self.home.url {
                    mark_named(&ground, id, &self.home.url).await?;
                }
            }
            let (definition, made) =
                self.define(home.as_ref(), name, options, led.to, given).await?;
            if led.found && definition.uuid == id {
                self.still_leads(home.as_ref(), &definition, made).await?;
            }
            if led.noted && !made && definition.uuid == id {
                // It may be that of an attempt that was cut short before it looked.
                self.stands_beside(&definition).await?;
            }
            Ok(definition)
        }
        .await;
        match &defined {
            _ if !led.noted => {}
            Ok(definition) if definition.uuid == id => self.drafts.end(id).await,
            // What was made for it is nobody's, or has to be looked at again.
            _ => self.drafts.leave(id),
        }
        defined
    }

    /// Nothing is to be made there after all.
    async fn give_up(&self, prepared: &Prepared) {
        match prepared {
            Prepared::Free(draft) => draft.undo().await,
            Prepared::Found(led) if led.noted => self.drafts.leave(led.to.id),
            Prepared::Found(_) => {}
        }
    }

    /// Gives a state its name, and says whether it had none (`true`). Safe to repeat.
    async fn define(
        &self,
        home: &dyn Site,
        name: &VolumeName,
        mut options: VolumeOptions,
        incarnation: Incarnation,
        given: &BTreeMap<String, String>,
    ) -> Result<(Definition, bool), CatalogError> {
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
            return Ok((definition, true));
        }
        match named::read(home, name, REQUEST).await? {
            Some((found, version)) => {
                let confirmed = self.confirm(home, found, version, given).await?;
                Ok((confirmed, false))
            }
            None => Err(CatalogError::Unknown(key.to_string())),
        }
    }

    /// Whoever began a state may take it away again until somebody has defined it, and may not have seen that yet. It
    /// closes the state first, and opens it again if it sees the definition after that.
    async fn still_leads(
        &self,
        home: &dyn Site,
        definition: &Definition,
        made: bool,
    ) -> Result<(), CatalogError> {
        if definition.options.readonly {
            return Ok(());
        }
        let ground = Ground::open(self.opener.as_ref(), &definition.options).await?;
        let state = ground.state.as_ref();
        let key = format_key(state.prefix(), definition.uuid);
        let mut lost = false;
        for look in 1..=LOOKS {
            let format = objects::read::<VolumeFormat>(state.store(), &key, REQUEST).await?;
            if ground.entry().await?.is_none_or(|led| led.uuid != definition.uuid) {
                self.take_back(home, definition).await?;
                let key = definition_key(home.prefix(), &definition.name);
                return Err(CatalogError::Unknown(key.to_string()));
            }
            lost = format.is_none();
            if format.is_some_and(|(format, _)| format.deleting.is_none()) {
                return Ok(());
            }
            if look < LOOKS {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        // Nobody takes it away: that would have gone on. Whoever mounts it says what is damaged.
        if lost {
            return Ok(());
        }
        if made {
            self.take_back(home, definition).await?;
        }
        Err(CatalogError::Refused(format!(
            "{} has a volume that is just being removed; try again when that is done",
            definition.options.url
        )))
    }

    /// Once more: whoever defined another volume there meanwhile sees this one, or is seen. Of two that see each
    /// other neither stays. A definition that could not be looked at again stays: somebody may use it by now.
    async fn stands_alone(
        &self,
        home: &dyn Site,
        definition: &Definition,
    ) -> Result<(), CatalogError> {
        self.look_around().await?;
        let judged = self.refuse_overlap(&definition.name, &definition.options);
        if judged.is_err()
            && let Err(error) = self.take_back(home, definition).await
        {
            tracing::warn!(volume = %definition.name, error = &error as &dyn std::error::Error,
                "a definition that was refused could not be taken back");
        }
        judged
    }

    /// Learns what volumes there are by now.
    async fn look_around(&self) -> Result<(), CatalogError> {
        let mut looks = 1;
        while let Err(error) = self.refresh(&|_| true).await {
            if looks == LOOKS {
                return Err(error);
            }
            looks += 1;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// What is left to be done for a volume whose creation here was cut short when it had its name. That stays, whatever
    /// is found: somebody may use it by now.
    async fn completes(&self, definition: &Definition) -> Result<(), CatalogError> {
        let ground = Ground::open(self.opener.as_ref(), &definition.options).await?;
        open_again(&ground, definition.uuid).await?;
        self.stands_beside(definition).await
    }

    /// Refuses a volume that lies in or around another one by now.
    pub(super) async fn stands_beside(&self, definition: &Definition) -> Result<(), CatalogError> {
        self.look_around().await?;
        self.refuse_overlap(&definition.name, &definition.options)
    }

    /// Takes a definition that was just made out of the bucket.
    async fn take_back(
        &self,
        home: &dyn Site,
        definition: &Definition,
    ) -> Result<(), CatalogError> {
        let key = definition_key(home.prefix(), &definition.name);
        let there = named::read(home, &definition.name, REQUEST).await?;
        // Others may have given it other options meanwhile.
        let ours = |now: &Definition| {
            (now.uuid, &now.created_at, &now.removing)
                == (definition.uuid, &definition.created_at, &definition.removing)
        };
        if let Some((_, version)) = there.filter(|(now, _)| ours(now)) {
            objects::delete(home, &key, &version).await?;
        }
        self.mirror.change(|volumes| volumes.remove(&definition.name).is_some()).await
    }

    /// The name is taken: by the same volume, by another one, or by one being removed.
    async fn confirm(
        &self,
        home: &dyn Site,
        mut found: Definition,
        mut version: crate::types::Version,
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
            let only_read = reads || self.only_reads(&name);
            let what = match &found.removing {
                Some(_) => "was removed a short while ago and can come back as it was",
                None if only_read => "is only read here, and exists",
                None => "",
            };
            if !what.is_empty() {
                let differ: Vec<_> = differences.iter().map(Difference::to_string).collect();
                return Err(CatalogError::Refused(format!(
                    "volume {name} {what} with other options: {}; leave them out to use it, or choose \
                     another name",
                    differ.join(", ")
                )));
            }
            if asked.credentials != found.options.credentials {
                require(self.opener.as_ref(), &asked).await?;
            }
            (found, version) =
                self.amend(home, (found, version), asked, &differences, true).await?;
        }
        let Some(removing) = &found.removing else {
            if self.drafts.resume(found.uuid) {
                let completed = self.completes(&found).await;
                completed.inspect_err(|_| self.drafts.leave(found.uuid))?;
                self.drafts.end(found.uuid).await;
            }
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
