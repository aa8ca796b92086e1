//! A file of credentials: lines `NAME=value`, the shared format of the AWS tools, or a service account of Google.
//!
//! No error repeats a line: it may be a key.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::keys::{Keys, known};
use super::profile::{self, Profiles};
use crate::types::CredentialsName;

/// Longer files are none of credentials.
const LONGEST: u64 = 64 << 10;

/// Reads a file that may be gone, half written, or of somebody else.
///
/// # Errors
/// What is wrong with it, without the place.
pub(super) fn read(path: &Path, guarded: bool) -> Result<String, String> {
    // Whatever it is, nobody waits for it.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = File::options().read(true).custom_flags(flags).open(path);
    let mut file = opened.map_err(|e| format!("it cannot be read ({e})"))?;
    let about = file.metadata().map_err(|e| format!("it cannot be read ({e})"))?;
    if !about.is_file() {
        return Err("it is no file".to_owned());
    }
    if guarded {
        guard(about.mode(), about.uid())?;
    }
    if about.len() > LONGEST {
        return Err(format!("it is longer than {} KiB", LONGEST >> 10));
    }
    let mut text = String::new();
    // It may grow meanwhile.
    file.by_ref()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|e| format!("it cannot be read ({e})"))?;
    Ok(text)
}

/// Keys that others may read are theirs too, and what others may write are no keys of ours.
fn guard(mode: u32, owner: u32) -> Result<(), String> {
    let own = nix::unistd::geteuid().as_raw();
    if owner != 0 && owner != own {
        return Err(format!("it belongs to the user {owner}; chown it to root"));
    }
    if mode & 0o027 != 0 {
        return Err(format!("others may use it (mode {:04o}); chmod 0600 it", mode & 0o7777));
    }
    Ok(())
}

/// What a file says.
///
/// # Errors
/// The line that is wrong, and why.
pub(super) fn parse(text: &str, name: &CredentialsName) -> Result<Keys, String> {
    let first = text.lines().map(str::trim).find(|line| !is_comment(line));
    match first {
        None => Err("it is empty".to_owned()),
        Some(line) if line.starts_with('{') => google(text),
        Some(line) if line.starts_with('[') => {
            let profiles = Profiles::read(text, profile::Kind::Credentials)?;
            let chosen = [name.as_str(), "default"].into_iter().find(|one| profiles.has(one));
            let Some(chosen) = chosen else {
                return Err(format!("it has neither a section [{name}] nor [default]"));
            };
            profiles.keys(chosen)
        }
        Some(_) => variables(text),
    }
}

fn is_comment(line: &str) -> bool {
    line.is_empty() || line.starts_with('#') || line.starts_with(';')
}

/// A file as Google gives it out for a service account.
fn google(text: &str) -> Result<Keys, String> {
    let parsed: serde_json::Value = serde_json::from_str(text)
        .map_err(|e| format!("it is not JSON (line {}, column {})", e.line(), e.column()))?;
    if parsed.get("private_key").is_none() || parsed.get("client_email").is_none() {
        return Err("it is JSON, but not the file of a service account of Google".to_owned());
    }
    let mut keys = Keys::default();
    keys.set("GOOGLE_SERVICE_ACCOUNT_KEY", text);
    Ok(keys)
}

fn variables(text: &str) -> Result<Keys, String> {
    let mut keys = Keys::default();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        if is_comment(line) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((variable, value)) = line.split_once('=') else {
            return Err(format!("line {number} is not of the form NAME=value"));
        };
        let (variable, value) = (variable.trim(), unquoted(value.trim()));
        let named = !variable.is_empty()
            && variable.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if !named {
            return Err(format!("line {number} is not of the form NAME=value"));
        }
        match known(variable) {
            Some(_) if value.is_empty() => {}
            Some(variable) if keys.get(variable).is_some() => {
                return Err(format!("line {number}: {variable} is given twice"));
            }
            Some(variable) => keys.set(variable, value),
            None if variable.starts_with("AWS_ENDPOINT_URL") => {
                return Err(format!(
                    "line {number}: {variable} is no part of credentials; give the volume the option endpoint"
                ));
            }
            None => return Err(format!("line {number}: {variable} is not known here")),
        }
    }
    Ok(keys)
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote) {
            return &value[1..value.len() - 1];
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Keys, String> {
        parse(text, &CredentialsName::new("team").unwrap())
    }

    fn pair(keys: &Keys) -> (Option<&str>, Option<&str>) {
        (keys.get("AWS_ACCESS_KEY_ID"), keys.get("AWS_SECRET_ACCESS_KEY"))
    }

    #[test]
    fn lines_of_the_environment() {
        let keys = parsed(
            "# of the team\n\nAWS_ACCESS_KEY_ID=AK\r\nexport AWS_SECRET_ACCESS_KEY = \"s=e/c+r\"\nAWS_SESSION_TOKEN=\n\
             AWS_REGION='eu-west-1'\n",
        )
        .unwrap();
        assert_eq!(pair(&keys), (Some("AK"), Some("s=e/c+r")));
        assert_eq!((keys.get("AWS_SESSION_TOKEN"), keys.region()), (None, Some("eu-west-1")));
    }

    #[test]
    fn the_shared_format_has_a_section_of_the_name_or_the_default() {
        let both = "[default]\naws_access_key_id=D\naws_secret_access_key=d\n\
                    [team]\naws_access_key_id = T\naws_secret_access_key = t # no comment\n";
        assert_eq!(pair(&parsed(both).unwrap()), (Some("T"), Some("t # no comment")));
        let one = "; x\n[default]\naws_access_key_id=D\naws_secret_access_key=d\n";
        assert_eq!(pair(&parsed(one).unwrap()), (Some("D"), Some("d")));
        let other = parsed("[other]\naws_access_key_id=D\n").unwrap_err();
        assert_eq!(other, "it has neither a section [team] nor [default]");
    }

    #[test]
    fn a_file_of_google_is_taken_whole() {
        let text = r#"{"type":"service_account","private_key":"k","client_email":"e"}"#;
        assert_eq!(parsed(text).unwrap().get("GOOGLE_SERVICE_ACCOUNT_KEY"), Some(text));
        assert!(parsed(r#"{"type":"authorized_user"}"#).unwrap_err().contains("service account"));
        assert!(parsed("{\"private_key\":\"hush").unwrap_err().starts_with("it is not JSON"));
    }

    #[test]
    fn no_error_repeats_what_may_be_a_key() {
        for (text, said) in [
            ("", "it is empty"),
            ("hush/hush+hush", "line 1 is not of the form NAME=value"),
            ("AWS_REGION=x\nhush=hush", "line 2 is not of the form NAME=value"),
            ("AWS_SECRET_KEY=hush", "line 1: AWS_SECRET_KEY is not known here"),
            ("AWS_REGION=hush\nAWS_REGION=hush", "line 2: AWS_REGION is given twice"),
            (
                "AWS_ENDPOINT_URL_S3=hush",
                "line 1: AWS_ENDPOINT_URL_S3 is no part of credentials; give the volume the option endpoint",
            ),
            ("[team]\nhush", "line 2 is not of the form name = value"),
        ] {
            let error = parsed(text).unwrap_err();
            assert_eq!(error, said);
            assert!(!error.contains("hush"));
        }
        assert!(!format!("{:?}", parsed("AWS_SECRET_ACCESS_KEY=hush").unwrap()).contains("hush"));
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let own = nix::unistd::geteuid().as_raw();
        assert!(
            guard(0o100600, own).is_ok()
                && guard(0o100640, own).is_ok()
                && guard(0o100400, 0).is_ok()
        );
        for mode in [0o100604, 0o100644, 0o100620, 0o100602] {
            assert!(guard(mode, own).unwrap_err().contains("chmod 0600 it"), "{mode:o}");
        }
        assert!(guard(0o100600, own + 1).unwrap_err().contains("chown it to root"));
    }
}
