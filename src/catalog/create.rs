//! `docker volume create`.

use std::collections::BTreeMap;

use super::definition::{Definition, FORMAT, definition_key};
use super::objects::{self, REQUEST};
use super::{Catalog, CatalogError, Site, incarnate};
use crate::config::{BucketUrl, VolumeOptions};
use crate::store::Condition;
use crate::types::VolumeName;

impl Catalog {
    /// Creates `name`, or confirms that it exists with what `given` asks for. Within the grace of a
    /// removal it brings the volume back. Safe to repeat after any failure.
    pub async fn create(
        &self,
        name: &VolumeName,
        given: &BTreeMap<String, String>,
    ) -> Result<Definition, CatalogError> {
        let mut options = self.parse(given, name)?;
        let home = self.opener.open(&self.home.url, &self.defaults).await?;
        let key = definition_key(home.prefix(), name);
        home.check().await?;
        if let Some((found, version)) =
            objects::read::<Definition>(home.store(), &key, REQUEST).await?
        {
            return self.confirm(home.as_ref(), found, version, given).await;
        }
        // Volumes that other hosts created since the last refresh count too.
        self.refresh(&|_| true).await?;
        self.refuse_overlap(name, &options)?;
        let incarnation = incarnate(self.opener.as_ref(), &options).await?;
        options.state_url = incarnation.state_url;
        let definition = Definition {
            format: FORMAT,
            name: name.clone(),
            uuid: incarnation.id,
            created_at: rfc3339_now(),
            options,
            adopted: incarnation.adopted,
            removing: None,
        };
        if objects::write(home.store(), &key, &definition, Condition::Absent).await? {
            tracing::info!(volume = %name, url = %definition.options.url, id = %definition.uuid,
                adopted = definition.adopted, "volume created");
            if self.home.embedded {
                tracing::warn!(volume = %name,
                    "kept inside the plugin; docker plugin rm deletes it");
            }
            self.mirror.learn(definition.clone(), None, true).await?;
            return Ok(definition);
        }
        match objects::read::<Definition>(home.store(), &key, REQUEST).await? {
            Some((found, version)) => self.confirm(home.as_ref(), found, version, given).await,
            None => Err(CatalogError::Unknown(key.to_string())),
        }
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
        let back = Definition { removing: None, ..found };
        let key = definition_key(home.prefix(), &name);
        if objects::write(home.store(), &key, &back, Condition::Is(version)).await? {
            tracing::info!(volume = %name, "brought back within the grace of its removal");
            self.mirror.learn(back.clone(), None, true).await?;
            Ok(back)
        } else {
            Err(CatalogError::Refused(format!(
                "volume {name} was changed by another host at the same time; try again"
            )))
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
