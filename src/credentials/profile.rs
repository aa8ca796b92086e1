//! Profiles of the AWS tools: `~/.aws/credentials` and `~/.aws/config`, and files of that format.

use std::collections::BTreeMap;

use super::keys::Keys;

/// Chains of profiles that are longer than this go round in circles.
const LONGEST_CHAIN: usize = 5;

/// How sections are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[name]`.
    Credentials,
    /// `[default]` and `[profile name]`; other sections are no profiles.
    Config,
}

/// Settings by profile.
#[derive(Default)]
pub(super) struct Profiles(BTreeMap<String, BTreeMap<String, String>>);

impl Profiles {
    /// # Errors
    /// The line that cannot be read.
    pub(super) fn read(text: &str, kind: Kind) -> Result<Profiles, String> {
        let mut profiles = Profiles::default();
        let mut section: Option<String> = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let is_nested = line.starts_with([' ', '\t']);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let Some((title, _)) = rest.split_once(']') else {
                    return Err(format!("line {number}: a section has no end"));
                };
                section = profile_of(title.trim(), kind);
                if let Some(name) = &section {
                    profiles.0.entry(name.clone()).or_default();
                }
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                return Err(format!("line {number} is not of the form name = value"));
            };
            // Settings of a service below one of its own, such as `s3 =`.
            if is_nested {
                continue;
            }
            if let Some(profile) = section.as_ref().and_then(|name| profiles.0.get_mut(name)) {
                profile.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        Ok(profiles)
    }

    pub(super) fn has(&self, profile: &str) -> bool {
        self.0.contains_key(profile)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// With what `other` says of the same profiles; what stands here counts.
    pub(super) fn over(mut self, other: Profiles) -> Profiles {
        for (name, settings) in other.0 {
            let profile = self.0.entry(name).or_default();
            for (setting, value) in settings {
                profile.entry(setting).or_insert(value);
            }
        }
        self
    }

    /// The keys of a profile, or how they are got.
    ///
    /// # Errors
    /// What it has that cannot be used here.
    pub(super) fn keys(&self, profile: &str) -> Result<Keys, String> {
        self.chain(profile, 0)
    }

    fn chain(&self, profile: &str, depth: usize) -> Result<Keys, String> {
        if depth == LONGEST_CHAIN {
            return Err(format!("the profile {profile} leads to itself by source_profile"));
        }
        let Some(settings) = self.0.get(profile) else {
            return Err(format!("there is no profile {profile}"));
        };
        let mut keys = Keys::default();
        for (setting, value) in settings {
            let variable = match setting.as_str() {
                "aws_access_key_id" => "AWS_ACCESS_KEY_ID",
                "aws_secret_access_key" => "AWS_SECRET_ACCESS_KEY",
                "aws_session_token" => "AWS_SESSION_TOKEN",
                "region" => "AWS_REGION",
                "role_arn" => "AWS_ROLE_ARN",
                "role_session_name" => "AWS_ROLE_SESSION_NAME",
                "external_id" => "AWS_EXTERNAL_ID",
                "web_identity_token_file" => "AWS_WEB_IDENTITY_TOKEN_FILE",
                "credential_process" => "AWS_CREDENTIAL_PROCESS",
                "mfa_serial" | "credential_source" | "sso_session" | "sso_start_url" => {
                    return Err(format!(
                        "the profile {profile} has {setting}, which is not possible here; use credential_process"
                    ));
                }
                "endpoint_url" => {
                    return Err(format!(
                        "the profile {profile} has endpoint_url, which is no part of credentials; give the volume \
                         the option endpoint"
                    ));
                }
                _ => continue,
            };
            if !value.is_empty() {
                keys.set(variable, value);
            }
        }
        let assumes = keys.get("AWS_ROLE_ARN").is_some();
        match settings.get("source_profile") {
            // A profile may name itself: its own keys assume the role.
            Some(source) if assumes && source != profile => {
                keys.assumed_by(self.chain(source, depth + 1)?);
            }
            _ => {}
        }
        Ok(keys)
    }
}

fn profile_of(title: &str, kind: Kind) -> Option<String> {
    match kind {
        Kind::Config if title != "default" => {
            title.strip_prefix("profile ").map(|name| name.trim().to_owned())
        }
        // Some write both files alike.
        _ => Some(title.strip_prefix("profile ").unwrap_or(title).trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Provider;

    #[test]
    fn a_role_is_assumed_with_the_keys_of_its_source() {
        let config = "[profile deploy]\nrole_arn = arn:aws:iam::1:role/deploy\nsource_profile = base\nexternal_id=x\n\
                      s3 =\n  addressing_style = path\n[profile base]\nregion = eu-west-1\n[sso-session one]\nx = y\n";
        let credentials = "[base]\naws_access_key_id = AK\naws_secret_access_key = SK\n";
        let profiles = Profiles::read(credentials, Kind::Credentials)
            .unwrap()
            .over(Profiles::read(config, Kind::Config).unwrap());
        let keys = profiles.keys("deploy").unwrap();
        assert_eq!(keys.get("AWS_ROLE_ARN"), Some("arn:aws:iam::1:role/deploy"));
        assert_eq!(keys.base().get("AWS_ACCESS_KEY_ID"), Some("AK"));
        keys.check(Provider::Aws).unwrap();
        assert_eq!(profiles.names().collect::<Vec<_>>(), ["base", "deploy"]);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let read = |text: &str| Profiles::read(text, Kind::Config).unwrap().keys("default");
        let circle = "[default]\nrole_arn=r\nsource_profile=a\n[profile a]\nrole_arn=r\nsource_profile=default\n";
        assert!(read(circle).unwrap_err().contains("leads to itself"));
        assert!(read("[default]\nmfa_serial=m\n").unwrap_err().contains("mfa_serial"));
        assert!(read("[profile x]\n").unwrap_err().contains("there is no profile default"));
        let role = read("[default]\nrole_arn=r\n").unwrap().check(Provider::Aws).unwrap_err();
        assert!(role.contains("are missing"), "{role}");
        read("[default]\ncredential_process=/bin/keys\n").unwrap().check(Provider::Aws).unwrap();
    }
}
