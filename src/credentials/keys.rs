//! The keys of one name, by the names that the environment has for them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::types::Secret;

/// Whose keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    Aws,
    Azure,
    Google,
}

impl Provider {
    pub const ALL: [Provider; 3] = [Provider::Aws, Provider::Azure, Provider::Google];

    /// How its variables begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Provider::Aws => "AWS_",
            Provider::Azure => "AZURE_",
            Provider::Google => "GOOGLE_",
        }
    }
}

/// What may be said of credentials, in files and in the environment.
pub const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_EXTERNAL_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CREDENTIAL_PROCESS",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
];

/// Whether a value can stand in a header and a URL.
pub fn is_visible(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_graphic())
}

/// The one spelling of a known variable.
pub(super) fn known(name: &str) -> Option<&'static str> {
    VARIABLES.iter().find(|variable| **variable == name).copied()
}

/// Values by variable. Neither `Debug` nor `Serialize` show them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    values: BTreeMap<&'static str, Secret>,
    /// Whose keys assume the role, where it is another profile's.
    base: Option<Box<Keys>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Keys {
    pub fn get(&self, variable: &str) -> Option<&str> {
        self.values.get(variable).map(Secret::expose)
    }

    /// The keys with which a role is assumed.
    pub fn base(&self) -> &Keys {
        self.base.as_deref().unwrap_or(self)
    }

    pub fn region(&self) -> Option<&str> {
        self.get("AWS_REGION").or_else(|| self.get("AWS_DEFAULT_REGION"))
    }

    pub(super) fn set(&mut self, variable: &'static str, value: &str) {
        self.values.insert(variable, Secret::new(value));
    }

    pub(super) fn assumed_by(&mut self, base: Keys) {
        self.base = Some(Box::new(base));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether they are complete for a provider: what is not is looked for elsewhere by clients of stores, and nothing
    /// else is to be used.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, provider: Provider) -> Result<(), String> {
        self.check_signs()?;
        let has = |variable: &str| self.get(variable).is_some();
        match provider {
            Provider::Aws => self.check_aws(),
            Provider::Azure => {
                if !has("AZURE_STORAGE_ACCOUNT_NAME") {
                    return Err("AZURE_STORAGE_ACCOUNT_NAME is missing".to_owned());
                }
                let application = has("AZURE_TENANT_ID") && has("AZURE_CLIENT_ID");
                let secret = has("AZURE_CLIENT_SECRET") || has("AZURE_FEDERATED_TOKEN_FILE");
                let complete = has("AZURE_STORAGE_ACCOUNT_KEY")
                    || has("AZURE_STORAGE_SAS_TOKEN")
                    || (application && secret);
                complete.then_some(()).ok_or_else(|| {
                    "AZURE_STORAGE_ACCOUNT_KEY is missing (or AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, \
                     AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE)"
                        .to_owned()
                })
            }
            Provider::Google => {
                let complete = has("GOOGLE_SERVICE_ACCOUNT_KEY")
                    || has("GOOGLE_SERVICE_ACCOUNT")
                    || has("GOOGLE_APPLICATION_CREDENTIALS");
                complete.then_some(()).ok_or_else(|| {
                    "GOOGLE_SERVICE_ACCOUNT_KEY is missing (or GOOGLE_SERVICE_ACCOUNT or \
                     GOOGLE_APPLICATION_CREDENTIALS)"
                        .to_owned()
                })
            }
        }
    }

    /// Values that stand in headers and URLs.
    fn check_signs(&self) -> Result<(), String> {
        let is_text = |variable: &str| {
            variable.starts_with("GOOGLE_")
                || variable.ends_with("_FILE")
                || matches!(variable, "AWS_CREDENTIAL_PROCESS" | "AWS_EXTERNAL_ID")
        };
        let mut checked = self.values.iter().filter(|(variable, _)| !is_text(variable));
        match checked.find(|(_, value)| !is_visible(value.expose())) {
            Some((variable, _)) => Err(format!(
                "{variable} has a character that is not visible ASCII; copy the value again"
            )),
            None => self.base.as_ref().map_or(Ok(()), |base| base.check_signs()),
        }
    }

    /// Whether they lead to others, which may be refused before these.
    pub(super) fn lead_to_others(&self) -> bool {
        let has = |variable: &str| self.get(variable).is_some();
        ["AWS_ROLE_ARN", "AWS_CREDENTIAL_PROCESS", "AWS_WEB_IDENTITY_TOKEN_FILE", "AZURE_CLIENT_ID"]
            .into_iter()
            .any(has)
            || self.base.is_some()
    }

    /// The files with the keys themselves, which may change while these do not.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"];
        files.into_iter().filter_map(|variable| self.get(variable).map(Path::new))
    }

    /// What a client takes over once: another one is another account.
    pub(super) fn place(&self) -> (Option<&str>, Option<&str>) {
        (self.region(), self.get("AZURE_STORAGE_ACCOUNT_NAME"))
    }

    fn check_aws(&self) -> Result<(), String> {
        let has = |variable: &str| self.get(variable).is_some();
        if has("AWS_WEB_IDENTITY_TOKEN_FILE") {
            return match has("AWS_ROLE_ARN") {
                true => Ok(()),
                false => {
                    Err("AWS_ROLE_ARN is missing beside AWS_WEB_IDENTITY_TOKEN_FILE".to_owned())
                }
            };
        }
        if has("AWS_ROLE_ARN") && self.base.is_some() {
            return self.base().check_aws();
        }
        if has("AWS_CREDENTIAL_PROCESS") {
            return Ok(());
        }
        match (has("AWS_ACCESS_KEY_ID"), has("AWS_SECRET_ACCESS_KEY")) {
            (true, true) => Ok(()),
            (true, false) => Err("AWS_SECRET_ACCESS_KEY is missing".to_owned()),
            (false, true) => Err("AWS_ACCESS_KEY_ID is missing".to_owned()),
            (false, false) => {
                Err("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are missing".to_owned())
            }
        }
    }
}
