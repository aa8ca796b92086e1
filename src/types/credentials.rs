//! What credentials are called: a name that hosts resolve, and never the keys.

use serde::{Deserialize, Serialize};

/// The longest name.
const LONGEST: usize = 64;

/// Letters, digits, `-` and `_`: it becomes the name of a file and a part of names of environment variables. A
/// definition in the bucket may have been edited by others, so it is checked wherever it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialsName(String);

impl CredentialsName {
    /// # Errors
    /// What a name has to be.
    pub fn new(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !first || text.len() > LONGEST || !text.bytes().all(allowed) {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
            return Err(format!(
                "{shown:?} is not a name of credentials: it has letters, digits, '-' and '_', begins with a letter \
                 or a digit, and is at most {LONGEST} long"
            ));
        }
        Ok(CredentialsName(text.to_owned()))
    }

    /// The name of a profile of the AWS tools, which is any text.
    ///
    /// # Errors
    /// Text that cannot be shown.
    pub fn of_profile(text: &str) -> Result<Self, String> {
        match text.is_empty() || text.chars().any(char::is_control) {
            true => Err("AWS_PROFILE is empty, or has characters that cannot be shown".to_owned()),
            false => Ok(CredentialsName(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in names of environment variables.
    pub fn in_capitals(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

impl std::fmt::Display for CredentialsName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CredentialsName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        CredentialsName::new(&text)
    }
}

impl From<CredentialsName> for String {
    fn from(name: CredentialsName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        for good in ["team", "Team-2", "a_b", "0", &"x".repeat(64)] {
            assert_eq!(CredentialsName::new(good).unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "..", "../team", "a/b", "a.b", "-a", "_a", "a b", "ä", "a\n", &"x".repeat(65)]
        {
            assert!(CredentialsName::new(bad).is_err(), "{bad:?}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<CredentialsName>(&json).is_err(), "{bad:?}");
        }
        assert_eq!(CredentialsName::new("team-a").unwrap().in_capitals(), "TEAM_A");
    }
}
