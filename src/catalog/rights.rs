//! What the credentials of a volume may do where it lies, in words for people: `s3vol credentials check` prints them,
//! and whoever creates a volume is refused with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Catalog, CatalogError, Opener, Site};
use crate::config::{BucketUrl, ConfigErrors, VolumeHome, VolumeOptions};
use crate::credentials::{Listed, Places};
use crate::store::{Location, Right, Scheme, StoreError, StoreErrorKind};
use crate::types::{CredentialsName, VolumeId, VolumeName};

/// One right at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub right: String,
    pub place: String,
    pub needed: bool,
    /// Why not.
    pub problem: Option<String>,
    pub cure: String,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Verdict { right, place, needed, problem, cure } = self;
        match problem {
            None => write!(f, "good  {right:<9}  {place}"),
            Some(problem) => {
                let grade = if *needed { "BAD " } else { "note" };
                write!(f, "{grade}  {right:<9}  {place}: {problem} -> {cure}")
            }
        }
    }
}

/// What `s3vol credentials check` asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Asked {
    pub name: String,
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub opts: BTreeMap<String, String>,
}

/// And what it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub listed: Listed,
    pub verdicts: Vec<Verdict>,
}

/// What the credentials of a name are, and what they may do at a URL, if one is given, and where the state of a volume
/// there would lie by `home`.
///
/// # Errors
/// Credentials that are missing or wrong; a URL or options that are.
pub async fn check_credentials(
    opener: &dyn Opener,
    asked: &Asked,
    defaults: &VolumeOptions,
    home: Option<&VolumeHome>,
) -> Result<Checked, CatalogError> {
    let name = CredentialsName::new(&asked.name).map_err(|p| ConfigErrors::one("NAME", p))?;
    let listed = Places::of_process().look(&name).map_err(CatalogError::Refused)?;
    let Some(url) = &asked.url else { return Ok(Checked { listed, verdicts: Vec::new() }) };
    let url = BucketUrl::parse(url).map_err(|p| ConfigErrors::one("URL", p))?;
    let mut given = asked.opts.clone();
    given.insert("credentials".to_owned(), name.to_string());
    // Any prefix will do to read the store's options, and where the state would lie; the rights are those at the URL itself.
    let below = url.join("probe").to_string();
    let options = match home {
        Some(home) => {
            let volume =
                VolumeName::new("probe").map_err(|e| ConfigErrors::one("NAME", e.to_string()))?;
            given.insert("url".to_owned(), below);
            VolumeOptions::parse(&given, defaults, home, &volume)?
        }
        None => VolumeOptions::parse_for_url(&below, &given, defaults)?,
    };
    let options = VolumeOptions { url: url.to_string(), ..options };
    Ok(Checked { listed, verdicts: judge(opener, &options).await? })
}

impl Catalog {
    /// As [`check_credentials`], as the plugin would use them.
    ///
    /// # Errors
    /// The same.
    pub async fn check_credentials(&self, asked: &Asked) -> Result<Checked, CatalogError> {
        check_credentials(self.opener.as_ref(), asked, &self.defaults, Some(&self.home)).await
    }
}

/// Tries the rights at the volume's place, and at that of its state where this is another one.
///
/// # Errors
/// Credentials that are missing or wrong.
pub(super) async fn judge(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<Vec<Verdict>, CatalogError> {
    let mut verdicts = Vec::new();
    let mut places = vec![options.url.as_str(), options.state_url.as_str()];
    places.dedup();
    for place in places {
        let wrong = |problem| ConfigErrors::one("url", problem);
        let url = BucketUrl::parse(place).map_err(wrong)?;
        let site = opener.open(&url, options).await?;
        verdicts.extend(at(site.as_ref(), &url, options.readonly).await?);
    }
    Ok(verdicts)
}

async fn at(site: &dyn Site, url: &BucketUrl, reads: bool) -> Result<Vec<Verdict>, StoreError> {
    let scheme = Location::parse(&url.to_string())?.scheme;
    let scratch = site.prefix().join(&format!(".s3vol/probe/{}/", VolumeId::random()));
    let mut verdicts = Vec::new();
    for (right, found) in site.rights(&scratch, reads).await {
        // No right is missing where the store cannot be used at all.
        match found {
            Err(error) if right == Right::List && error.kind != StoreErrorKind::Denied => {
                return Err(error);
            }
            Err(error) if right.is_needed() && error.is_transient() => return Err(error),
            found => verdicts.push(verdict(right, found, url, scheme)),
        }
    }
    Ok(verdicts)
}

fn verdict(
    right: Right,
    found: Result<(), StoreError>,
    url: &BucketUrl,
    scheme: Scheme,
) -> Verdict {
    Verdict {
        right: right.name().to_owned(),
        place: url.to_string(),
        needed: right.is_needed(),
        problem: found.err().map(|error| error.message),
        cure: right.cure(scheme).to_owned(),
    }
}

/// Refuses options whose credentials are missing, or may not do what the volume needs.
pub(super) async fn require(
    opener: &dyn Opener,
    options: &VolumeOptions,
) -> Result<(), CatalogError> {
    let Some(name) = &options.credentials else { return Ok(()) };
    let missing: Vec<String> = judge(opener, options)
        .await?
        .into_iter()
        .filter(|verdict| verdict.needed && verdict.problem.is_some())
        .map(|verdict| verdict.to_string())
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(CatalogError::Refused(format!(
            "the credentials {name} may not do what the volume needs:\n{}",
            missing.join("\n")
        ))),
    }
}
