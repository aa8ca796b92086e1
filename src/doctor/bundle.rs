//! Everything for a bug report in one text file, without secrets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Finding;

/// The end of each log.
const LOG: u64 = 256 << 10;
/// So many logs, the latest first.
const LOGS: usize = 20;
/// What stands for a secret.
const HIDDEN: &str = "[hidden]";
/// A shorter value would hide half of the text.
const SHORTEST: usize = 6;
/// A variable whose name has one of these holds a secret.
const SECRET: &[&str] = &[
    "KEY",
    "CONNECTION_STRING",
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "SAS",
    "AUTHORIZATION",
    "SIGNATURE",
];
/// Behind these a secret begins, whoever wrote the text.
const BEFORE: &[&str] = &[
    "X-Amz-Signature=",
    "X-Amz-Credential=",
    "X-Amz-Security-Token=",
    "X-Goog-Signature=",
    "X-Goog-Credential=",
    "Signature=",
    "AWSAccessKeyId=",
    "sig=",
    "Bearer ",
    "Basic ",
    "SharedKey ",
    "AccountKey=",
    "x-amz-security-token: ",
];

/// What must not be in a report: values of variables, and what looks like a signature.
#[derive(Debug, Default)]
pub struct Secrets {
    /// The longest first, so that one that is within another hides none of it.
    values: Vec<String>,
}

impl Secrets {
    /// Those in an environment.
    pub fn of(environment: &BTreeMap<String, String>) -> Self {
        let mut values: Vec<String> = environment
            .iter()
            .filter(|(name, value)| is_secret(name) && value.trim().len() >= SHORTEST)
            .map(|(_, value)| value.trim().to_owned())
            .collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Secrets { values }
    }

    /// The text without them.
    pub fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.values {
            text = text.replace(value.as_str(), HIDDEN);
        }
        for before in BEFORE {
            text = hide_behind(&text, before);
        }
        hide_users(&text)
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // It names a file.
    let file = name.ends_with("_FILE") || name.ends_with("_BUNDLE");
    !file && SECRET.iter().any(|part| name.contains(part))
}

/// Up to the end of what a query or a header takes as one value, however `before` is spelled.
fn hide_behind(text: &str, before: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, before) = (text, before.to_ascii_lowercase());
    // As long as the text, byte by byte.
    let lower = text.to_ascii_lowercase();
    while let Some(at) = lower[text.len() - rest.len()..].find(&before) {
        let (kept, value) = rest.split_at(at + before.len());
        let end = value.find(|c: char| c.is_whitespace() || "&\"'<>,;".contains(c));
        let end = end.unwrap_or(value.len());
        out.push_str(kept);
        out.push_str(if end > 0 { HIDDEN } else { "" });
        rest = &value[end..];
    }
    out.push_str(rest);
    out
}

/// `scheme://user:password@host`
fn hide_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (kept, place) = rest.split_at(at + 3);
        out.push_str(kept);
        let end =
            place.find(|c: char| c.is_whitespace() || "/\"'<>".contains(c)).unwrap_or(place.len());
        match place[..end].rfind('@') {
            Some(user) => {
                out.push_str(HIDDEN);
                rest = &place[user..];
            }
            None => rest = place,
        }
    }
    out.push_str(rest);
    out
}

/// What goes into the file.
#[derive(Debug)]
pub struct Bundle<'b> {
    pub findings: &'b [Finding],
    /// What the volumes here say of themselves, as JSON.
    pub status: String,
    /// What plugins here remember to have happened, one event a line.
    pub events: String,
    pub state: &'b Path,
    pub environment: &'b BTreeMap<String, String>,
}

impl Bundle<'_> {
    /// Makes a new file that only its owner may read.
    ///
    /// # Errors
    /// Also when it is there already.
    pub fn create(path: &Path) -> io::Result<File> {
        File::options().write(true).create_new(true).mode(0o600).open(path)
    }

    /// Writes everything to such a file.
    pub fn write(&self, mut out: File) -> io::Result<()> {
        out.write_all(self.text().as_bytes())?;
        out.sync_all()
    }

    fn text(&self) -> String {
        let secrets = Secrets::of(self.environment);
        let mut text = String::new();
        let mut section = |name: &str, body: &str| {
            text.push_str(&format!("===== {name} =====\n{}\n\n", secrets.hide(body).trim_end()));
        };
        section(
            "s3vol",
            &format!("version {}\n{}", crate::worker::version(), jiff::Timestamp::now()),
        );
        let findings = serde_json::to_string_pretty(self.findings);
        section("doctor", &findings.unwrap_or_else(|error| error.to_string()));
        section("volumes here", &self.status);
        section("events", &self.events);
        section("environment", &self.variables());
        for path in ["/proc/version", "/proc/self/mountinfo", "/proc/meminfo", "/proc/pressure/io"]
        {
            section(path, &tail(Path::new(path)).unwrap_or_else(|error| error.to_string()));
        }
        for log in logs(self.state) {
            let said = tail(&log).unwrap_or_else(|error| error.to_string());
            section(&log.display().to_string(), &said);
        }
        text
    }

    /// Names and values that matter here; of secrets the names.
    fn variables(&self) -> String {
        const OURS: &[&str] = &["S3VOL_", "AWS_", "AZURE_", "GOOGLE_", "SSL_CERT", "DOCKER_HOST"];
        const PROXIES: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"];
        let ours = |name: &str| {
            OURS.iter().any(|begin| name.starts_with(begin))
                || PROXIES.contains(&name.to_ascii_uppercase().as_str())
        };
        let proxy = |name: &str| name.to_ascii_uppercase().ends_with("_PROXY");
        let line = |(name, value): (&String, &String)| match is_secret(name) {
            true => format!("{name}={HIDDEN}\n"),
            // The name and password of a user, with or without a scheme before them.
            false if proxy(name) && value.contains('@') => {
                let host = value.rsplit_once('@').map_or("", |(_, host)| host);
                format!("{name}={HIDDEN}@{host}\n")
            }
            false => format!("{name}={value}\n"),
        };
        self.environment.iter().filter(|(name, _)| ours(name)).map(line).collect()
    }
}

/// Of volumes that were mounted by hand; those of the plugin log to dockerd.
fn logs(state: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(state.join("volumes")).into_iter().flatten().flatten();
    let mut logs: Vec<_> = folders
        .map(|folder| folder.path().join("worker.log"))
        .filter_map(|log| Some((log.metadata().ok()?.modified().ok()?, log)))
        .collect();
    logs.sort();
    logs.into_iter().rev().take(LOGS).map(|(_, log)| log).collect()
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(LOG);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Half a line may hold half a secret, which nothing tells from other text.
    let whole =
        if begin > 0 { text.split_once('\n').map_or("", |(_, whole)| whole) } else { &text };
    Ok(whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_of_secret_variables_are_hidden_wherever_they_are() {
        let secrets = Secrets::of(&environment(&[
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
            ("AWS_SESSION_TOKEN", "wJalrXUtnFEMI/longer"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/s3vol/files/token"),
            ("SHORT_KEY", "abc"),
        ]));
        let said = secrets
            .hide("a wJalrXUtnFEMI/longer b wJalrXUtnFEMI c eu-west-1 /s3vol/files/token abc");
        assert_eq!(said, "a [hidden] b [hidden] c eu-west-1 /s3vol/files/token abc");
    }

    #[test]
    fn signatures_and_users_are_hidden_whoever_wrote_them() {
        let hide = |text: &str| Secrets::default().hide(text);
        assert_eq!(
            hide("GET /b/k?X-Amz-Signature=0a1b&partNumber=1 sig=xy%2F HTTP"),
            "GET /b/k?X-Amz-Signature=[hidden]&partNumber=1 sig=[hidden] HTTP"
        );
        assert_eq!(
            hide("Authorization: Bearer abc.def\nnext"),
            "Authorization: Bearer [hidden]\nnext"
        );
        assert_eq!(
            hide("http://me:pass@proxy:1/x s3://b/a@b"),
            "http://[hidden]@proxy:1/x s3://b/a@b"
        );
        assert_eq!(
            hide("authorization: bearer abc, x-amz-security-token: t0ken"),
            "authorization: bearer [hidden], x-amz-security-token: [hidden]"
        );
        assert_eq!(hide("sig= nothing, https://"), "sig= nothing, https://");
    }

    #[test]
    fn a_bundle_has_what_is_known_and_no_secret_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volumes/1");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("worker.log"), "it said secret-value here\n").unwrap();
        let environment = environment(&[
            ("AWS_SECRET_ACCESS_KEY", "secret-value"),
            ("S3VOL_URL", "s3://bucket"),
            ("HTTPS_PROXY", "me:pa/ss@proxy:3128"),
            ("HOME", "/root"),
        ]);
        let findings = [Finding::bad("bucket", "no secret-value", "none")];
        let bundle = Bundle {
            findings: &findings,
            status: "[]".to_owned(),
            events: String::new(),
            state: dir.path(),
            environment: &environment,
        };
        let file = dir.path().join("bundle.txt");
        bundle.write(Bundle::create(&file).unwrap()).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("secret-value"), "{text}");
        for part in [
            "it said [hidden] here",
            "HTTPS_PROXY=[hidden]@proxy:3128",
            "S3VOL_URL=s3://bucket",
            "AWS_SECRET_ACCESS_KEY=[hidden]",
            "===== volumes here =====",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("HOME="), "{text}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Bundle::create(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
