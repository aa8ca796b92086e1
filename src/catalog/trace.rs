//! What leads to a volume's state, where that is no longer whole; and mending it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::definition::{Definition, FORMAT, PrefixEntry, definition_key, format_key, prefix_key};
use super::ground::Ground;
use super::objects::{self, REQUEST, Replaced};
use super::{CatalogError, Incarnation, Opener, Site, named};
use crate::config::{BucketUrl, VolumeOptions};
use crate::store::{
    Attributes, Condition, ListRequest, Properties, PutOutcome, Send, StoreErrorKind,
};
use crate::types::{ATTR_VOLUME, VolumeId};

/// Objects that are asked whose they are, where nothing else tells.
const ASKED: usize = 20;

/// All that leads to a volume.
#[derive(Debug)]
pub struct Trace {
    /// By its by-prefix entry.
    pub entry: Option<Incarnation>,
    /// There is an entry, and it cannot be read.
    pub unreadable_entry: Option<String>,
    /// Definitions of the place, in the home where its state lies.
    pub definitions: Vec<Definition>,
    /// Keys of definitions there that cannot be read.
    pub unreadable: Vec<String>,
    /// What most of its first objects say whose they are, where there is no entry.
    pub marked: Option<VolumeId>,
}

impl Trace {
    /// The state that all of that leads to.
    pub fn state(&self, options: &VolumeOptions) -> Option<Incarnation> {
        let by = |id| {
            let state_url = options.state_url.clone();
            // Where it is not known, nothing of others is deleted.
            Incarnation { id, state_url, adopted: true }
        };
        self.entry.clone().or_else(|| {
            let defined = self.definitions.first().map(|d| Incarnation {
                adopted: d.adopted,
                state_url: d.options.state_url.clone(),
                ..by(d.uuid)
            });
            defined.or_else(|| self.marked.map(by))
        })
    }
}

/// Looks for everything that leads to the volume at `options.url`; changes nothing.
pub async fn trace(opener: &dyn Opener, options: &VolumeOptions) -> Result<Trace, CatalogError> {
    let ground = Ground::open(opener, options).await?;
    ground.check().await?;
    let (entry, unreadable_entry) = match ground.entry().await {
        Ok(entry) => (entry.map(Incarnation::from), None),
        Err(CatalogError::Damaged { key, .. }) => (None, Some(key)),
        Err(error) => return Err(error),
    };
    let home = match &entry {
        Some(found) => opener.open(&parsed(&found.state_url)?, options).await?,
        None => Arc::clone(&ground.state),
    };
    let (definitions, unreadable) = definitions(home.as_ref(), &ground.url).await?;
    let marked = match entry.is_some() || !definitions.is_empty() {
        true => None,
        false => marked(&ground).await?,
    };
    Ok(Trace { entry, unreadable_entry, definitions, unreadable, marked })
}

async fn definitions(
    home: &dyn Site,
    url: &BucketUrl,
) -> Result<(Vec<Definition>, Vec<String>), CatalogError> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for name in named::list(home, REQUEST).await?.into_keys() {
        match named::read(home, &name, REQUEST).await {
            Ok(Some((definition, _))) => {
                let place = BucketUrl::parse(&definition.options.url);
                if place.is_ok_and(|place| place == *url) {
                    found.push(definition);
                }
            }
            Ok(None) => {}
            Err(error) if error.is_of_one() => {
                unreadable.push(definition_key(home.prefix(), &name).to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok((found, unreadable))
}

/// Whose the objects at the place say they are, if there is a state of that.
async fn marked(ground: &Ground) -> Result<Option<VolumeId>, CatalogError> {
    let (volume, state) = (&ground.volume, &ground.state);
    let request = ListRequest {
        prefix: volume.prefix().as_str().to_owned(),
        delimiter: false,
        token: None,
        max_keys: ASKED as u32,
    };
    let mut votes: BTreeMap<uuid::Uuid, usize> = BTreeMap::new();
    for entry in volume.store().list(request, REQUEST).await?.entries {
        let info = volume.store().head(&entry.key, REQUEST).await?;
        let id =
            info.and_then(|info| uuid::Uuid::parse_str(info.attributes.get(ATTR_VOLUME)?).ok());
        *votes.entry(id.unwrap_or_default()).or_default() += usize::from(id.is_some());
    }
    let mut votes: Vec<_> = votes.into_iter().filter(|(_, votes)| *votes > 0).collect();
    votes.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
    for (id, _) in votes {
        let id = VolumeId(id);
        if state.store().head(&format_key(state.prefix(), id), REQUEST).await?.is_some() {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn parsed(url: &str) -> Result<BucketUrl, CatalogError> {
    let error = |problem| crate::config::ConfigErrors::one("state_url", problem).into();
    BucketUrl::parse(url).map_err(error)
}

/// Makes the by-prefix entry of `options.url`, and the definitions in its home, lead to `to`. Whoever
/// calls this holds the state that they led to, or there is none.
pub async fn lead_to(
    opener: &dyn Opener,
    options: &VolumeOptions,
    to: &Incarnation,
) -> Result<(), CatalogError> {
    let ground = Ground::open(opener, options).await?;
    let entry = PrefixEntry {
        format: FORMAT,
        url: ground.url.to_string(),
        uuid: to.id,
        state_url: to.state_url.clone(),
        adopted: to.adopted,
    };
    let home = opener.open(&parsed(&to.state_url)?, options).await?;
    let (store, key) = (home.store(), prefix_key(home.prefix(), &ground.url));
    let body = serde_json::to_vec_pretty(&entry)
        .map_err(|source| CatalogError::Damaged { key: key.to_string(), source })?;
    // Whatever lies there, readable or not.
    let condition = match store.head(&key, REQUEST).await? {
        Some(info) => Condition::Is(info.version),
        None => Condition::Absent,
    };
    let (attributes, properties) = (Attributes::new(), Properties::default());
    let send = Send { condition, ..Send::plain(REQUEST) };
    let mut sent = store.put(&key, Bytes::from(body.clone()), &attributes, &properties, send).await;
    let refused = |e: &crate::store::StoreError| e.kind == StoreErrorKind::Unsupported;
    if matches!(&sent, PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) if refused(error)) {
        let send = Send::plain(REQUEST);
        sent = store.put(&key, Bytes::from(body), &attributes, &properties, send).await;
    }
    let there = objects::read::<PrefixEntry>(store, &key, REQUEST).await?.map(|(now, _)| now);
    if there.as_ref() != Some(&entry) {
        return Err(match sent {
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => error.into(),
            PutOutcome::Won(_) | PutOutcome::Lost => CatalogError::Unknown(key.to_string()),
        });
    }
    let (definitions, _) = definitions(home.as_ref(), &ground.url).await?;
    for old in definitions.into_iter().filter(|definition| definition.uuid != to.id) {
        let key = definition_key(home.prefix(), &old.name);
        let new = Definition { uuid: to.id, adopted: to.adopted, ..old.clone() };
        let Some((now, version)) = named::read(home.as_ref(), &old.name, REQUEST).await? else {
            continue;
        };
        if now != old {
            return Err(CatalogError::Unknown(key.to_string()));
        }
        if let Replaced::No(_) = objects::replace(store, &key, (&now, version), &new).await? {
            return Err(CatalogError::Unknown(key.to_string()));
        }
    }
    Ok(())
}
