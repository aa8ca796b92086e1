//! New options for a volume that exists: `s3vol set`, and `docker volume create` where Docker asks.
//!
//! Only the definition changes, in one conditional write; whoever mounts the volume next has the new options. What a
//! mounted volume follows at once is told to its worker by the driver, after that write.

use std::collections::BTreeMap;

use super::definition::{Definition, definition_key};
use super::objects::{self, REQUEST, Replaced};
use super::remove::changed;
use super::rights::require;
use super::{Catalog, CatalogError, Site, named, stores};
use crate::config::{Change, Difference, VolumeOptions};
use crate::types::{Version, VolumeName};

impl Catalog {
    /// Gives `name` the options in `given`; those that are not given stay. Returns the definition as it is now, and
    /// what is different. Safe to repeat after any failure.
    pub async fn change(
        &self,
        name: &VolumeName,
        given: &BTreeMap<String, String>,
    ) -> Result<(Definition, Vec<Difference>), CatalogError> {
        if given.keys().any(|option| option.trim().eq_ignore_ascii_case("readonly")) {
            return Err(CatalogError::Refused(
                "readonly is each host's own; docker volume create with readonly=true sets it on a host whose \
                 Docker has not seen the name yet. A second name, created with the same url and readonly=true, only \
                 reads on every host"
                    .to_owned(),
            ));
        }
        let home = self.opener.open(&self.home.url, &self.defaults).await?;
        let Some((found, version)) = named::read(home.as_ref(), name, REQUEST).await? else {
            return Err(CatalogError::Refused(format!("there is no volume {name}")));
        };
        if found.removing.is_some() {
            return Err(CatalogError::Refused(format!(
                "volume {name} was removed a short while ago; create it again to bring it back, and then change \
                 its options"
            )));
        }
        if self.only_reads(name) {
            return Err(CatalogError::Refused(format!(
                "volume {name} is only read here; change its options on a host that writes it"
            )));
        }
        let asked = found.options.amend(given, &self.home, name)?;
        let differences = found.options.differences(&asked);
        if differences.is_empty() {
            self.mirror.learn(found.clone(), Some(version), false).await?;
            return Ok((found, differences));
        }
        if asked.credentials != found.options.credentials {
            require(self.opener.as_ref(), &asked).await?;
        }
        let now = self.amend(home.as_ref(), (found, version), asked, &differences, false).await?;
        Ok((now.0, differences))
    }

    /// Writes a definition with other options, unless one of them never changes. `declare`: this host's Docker named it.
    pub(super) async fn amend(
        &self,
        home: &dyn Site,
        (found, version): (Definition, Version),
        asked: VolumeOptions,
        differences: &[Difference],
        declare: bool,
    ) -> Result<(Definition, Version), CatalogError> {
        let name = found.name.clone();
        let fixed: Vec<String> = differences
            .iter()
            .filter(|difference| difference.change == Change::Never)
            .map(Difference::to_string)
            .collect();
        if !fixed.is_empty() {
            return Err(CatalogError::Refused(format!(
                "volume {name} exists with other options: {}; these never change, so leave them out to use it, or \
                 choose another name",
                fixed.join(", ")
            )));
        }
        let new = Definition { options: asked, written_by: self.host.clone(), ..found.clone() };
        let key = definition_key(home.prefix(), &name);
        stores::look_up(home, home).await;
        match objects::replace(home.store(), &key, (&found, version), &new).await? {
            Replaced::Yes(at) => {
                let what: Vec<String> = differences.iter().map(Difference::change_text).collect();
                tracing::info!(volume = %name, "options changed: {}", what.join("; "));
                self.mirror.learn(new.clone(), Some(at.clone()), declare).await?;
                Ok((new, at))
            }
            Replaced::No(now) => Err(changed(&found, now)),
        }
    }
}
