//! The place of a volume: its bucket, that of its state, and what lies there already.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;

use super::definition::{PrefixEntry, VolumeFormat, format_key, prefix_key};
use super::objects::{self, REQUEST};
use super::overlap::refuse_nested;
use super::{CatalogError, Incarnation, Opener, Site};
use crate::config::{BucketUrl, ConfigErrors, Scheme, VolumeOptions};
use crate::store::{Capabilities, ListPage, ListRequest};
use crate::types::VolumeId;

#[derive(Debug)]
pub(super) struct Ground {
    pub url: BucketUrl,
    pub state_url: BucketUrl,
    pub volume: Arc<dyn Site>,
    pub state: Arc<dyn Site>,
    /// Where the by-prefix entry may be: where it is written now, and where a host with another home
    /// would have written it, beside any folder above.
    places: Vec<(BucketUrl, Arc<dyn Site>)>,
}

impl Ground {
    /// Sends no request.
    pub async fn open(
        opener: &dyn Opener,
        options: &VolumeOptions,
    ) -> Result<Ground, CatalogError> {
        let url = parsed("url", &options.url)?;
        let state_url = parsed("state_url", &options.state_url)?;
        let volume = opener.open(&url, options).await?;
        let state = opener.open(&state_url, options).await?;
        let mut places = vec![(state_url.clone(), Arc::clone(&state))];
        let mut above = url.parent();
        while let Some(place) = above {
            above = place.parent();
            // The root of the file system is not a store.
            let is_disk_root = is_local(&place) && place.prefix.as_str().is_empty();
            if place != state_url && !is_disk_root {
                let site = opener.open(&place, options).await?;
                places.push((place, site));
            }
        }
        Ok(Ground { url, state_url, volume, state, places })
    }

    /// Whether both buckets can be used. Returns what comes first at the place.
    pub async fn check(&self) -> Result<ListPage, CatalogError> {
        let state = async {
            match self.state_url.same_bucket(&self.url) {
                true => Ok(()),
                false => self.state.check().await.map(|_| ()),
            }
        };
        let (page, state) = tokio::join!(self.volume.check(), state);
        let page = page?;
        state?;
        Ok(page)
    }

    /// What both stores are known to honour: the volume's, and the state's.
    pub fn known(&self) -> Option<(Capabilities, Capabilities)> {
        let volume = self.volume.known().current()?;
        let state = self.state.known().current()?;
        Some((volume.capabilities, state.capabilities))
    }

    /// Whether the state would be found at the place itself, as if it had been there.
    pub fn state_is_inside(&self) -> bool {
        self.state_url.is_inside(&self.url)
    }

    /// Whether the place seems to have a state. Refuses one around or inside another.
    pub async fn taken(&self) -> Result<bool, CatalogError> {
        let looks = self.places.iter().map(|(place, site)| async move {
            match refuse_nested(site.as_ref(), &self.url).await {
                Err(CatalogError::Store(_)) if self.may_be_no_store(place) => Ok(false),
                judged => judged,
            }
        });
        let mut taken = false;
        for judged in futures::future::join_all(looks).await {
            taken |= judged?;
        }
        Ok(taken)
    }

    /// Looks for the by-prefix entry.
    pub async fn find(
        &self,
        opener: &dyn Opener,
        options: &VolumeOptions,
    ) -> Result<Option<Incarnation>, CatalogError> {
        let Some(entry) = self.entry().await? else { return Ok(None) };
        self.check_endpoint(opener, options, &entry).await?;
        Ok(Some(entry.into()))
    }

    /// The by-prefix entry, whatever it leads to. Only where it is not where it is written now, the other
    /// places are asked, all at once; the first of them that has it counts.
    pub async fn entry(&self) -> Result<Option<PrefixEntry>, CatalogError> {
        let Some((first, others)) = self.places.split_first() else { return Ok(None) };
        if let Some(entry) = self.entry_at(first).await? {
            return Ok(Some(entry));
        }
        let mut looks: FuturesOrdered<_> =
            others.iter().map(|place| self.entry_at(place)).collect();
        while let Some(found) = looks.next().await {
            if let Some(entry) = found? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    async fn entry_at(
        &self,
        (place, site): &(BucketUrl, Arc<dyn Site>),
    ) -> Result<Option<PrefixEntry>, CatalogError> {
        let url = &self.url;
        let key = prefix_key(site.prefix(), url);
        match objects::read::<PrefixEntry>(site.store(), &key, REQUEST).await {
            Ok(Some((entry, _))) if entry.url == url.to_string() => Ok(Some(entry)),
            Ok(Some((entry, _))) => Err(CatalogError::Refused(format!(
                "{url} and {} cannot be told apart by their hashes; use another prefix",
                entry.url
            ))),
            Err(CatalogError::Store(_)) if self.may_be_no_store(place) => Ok(None),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A folder above a file:// volume need not be a store of ours at all.
    fn may_be_no_store(&self, place: &BucketUrl) -> bool {
        *place != self.state_url && is_local(place)
    }

    /// Two endpoints may be two sites that replicate to each other, where each proves every condition
    /// alone; so one volume is used through one endpoint.
    pub async fn check_endpoint(
        &self,
        opener: &dyn Opener,
        options: &VolumeOptions,
        entry: &PrefixEntry,
    ) -> Result<(), CatalogError> {
        let held_at = parsed("state_url", &entry.state_url)?;
        let state = opener.open(&held_at, options).await?;
        let key = format_key(state.prefix(), entry.uuid);
        let Some((format, _)) = objects::read::<VolumeFormat>(state.store(), &key, REQUEST).await?
        else {
            // The worker judges damage, with the means to repair it.
            return Ok(());
        };
        let (url, ours) = (&self.url, self.volume.store().endpoint());
        if format.endpoint == ours {
            return Ok(());
        }
        Err(CatalogError::Refused(format!(
            "the volume at {url} is used through the endpoint {}, not {ours}; two endpoints may be two \
             copies of the bucket, so give endpoint={}",
            format.endpoint, format.endpoint
        )))
    }

    /// A volume around the state of others would show and settle it as files. `page` is what comes
    /// first at the place. Returns whether anything else is there. `ours` may have been begun there.
    pub async fn refuse_foreign_state(
        &self,
        page: &ListPage,
        ours: &[VolumeId],
    ) -> Result<bool, CatalogError> {
        if names(page).next().is_none() {
            return Ok(false);
        }
        let (url, own) = (&self.url, self.volume.prefix().join(".s3vol/"));
        let request = ListRequest {
            prefix: own.as_str().to_owned(),
            delimiter: true,
            token: None,
            max_keys: 3,
        };
        let state = self.volume.store().list(request, REQUEST).await?;
        // What a probe left to be known, or could not delete, is no volume's state.
        let (stores, probe, states) = (own.join("stores/"), own.join("probe/"), own.join("v/"));
        let mut foreign = names(&state).any(|name| {
            !name.starts_with(stores.as_str())
                && !name.starts_with(probe.as_str())
                && (name != states.as_str() || !self.state_is_inside())
        });
        if !foreign && names(&state).any(|name| name == states.as_str()) {
            let request = ListRequest {
                prefix: states.as_str().to_owned(),
                delimiter: true,
                token: None,
                max_keys: ours.len() as u32 + 1,
            };
            let begun: Vec<_> = ours.iter().map(|id| states.join(&format!("{id}/"))).collect();
            let states = self.volume.store().list(request, REQUEST).await?;
            foreign = names(&states).any(|name| begun.iter().all(|ours| ours.as_str() != name));
        }
        if foreign {
            return Err(CatalogError::Refused(format!(
                "{url}.s3vol/ holds the state of volumes, so a volume at {url} would lie around them; use \
                 a prefix beside them"
            )));
        }
        Ok(names(page).any(|name| !name.starts_with(own.as_str())))
    }
}

fn names(page: &ListPage) -> impl Iterator<Item = &str> {
    page.entries
        .iter()
        .map(|entry| entry.key.as_str())
        .chain(page.prefixes.iter().map(String::as_str))
}

fn is_local(place: &BucketUrl) -> bool {
    place.scheme == Scheme::File
}

fn parsed(name: &str, text: &str) -> Result<BucketUrl, CatalogError> {
    BucketUrl::parse(text).map_err(|problem| ConfigErrors::one(name, problem).into())
}
