//! dockerd, and the plugins in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Finding;
use crate::telemetry::with_causes;

const ABOUT: &str = "dockerd";
const SOCKET: &str = "/var/run/docker.sock";
const TIMEOUT: Duration = Duration::from_secs(5);
/// No answer that is asked for is longer.
const LONGEST_ANSWER: usize = 8 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    #[serde(default)]
    api_version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Info {
    docker_root_dir: String,
    live_restore_enabled: bool,
}

/// Its settings hold credentials and are not read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    name: String,
    enabled: bool,
    #[serde(default)]
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    description: String,
}

/// `given`: where dockerd listens; otherwise as the docker command finds it. `answers`: whether a plugin does.
pub(super) async fn look(given: Option<&Path>, answers: bool) -> Vec<Finding> {
    let socket = match given.map(Path::to_owned).map_or_else(from_environment, Ok) {
        Ok(socket) => socket,
        Err(host) => {
            return vec![Finding::note(
                ABOUT,
                format!("DOCKER_HOST is {host}, which is not on this host's file system"),
                "run this on the host of dockerd, or give its socket with --docker",
            )];
        }
    };
    let version = match get::<Version>(&socket, "/version").await {
        Ok(version) => version,
        Err(error) => {
            return vec![Finding::note(
                ABOUT,
                format!("{}: {error}", socket.display()),
                "nothing to do without Docker; else start dockerd, or give its socket with --docker",
            )];
        }
    };
    let mut text = format!("Docker {} (API {})", version.version, version.api_version);
    // Older or restricted ones do not tell.
    let info = get::<Info>(&socket, "/info").await.unwrap_or_default();
    if !info.docker_root_dir.is_empty() {
        text.push_str(&format!(", data in {}", info.docker_root_dir));
    }
    if info.live_restore_enabled {
        text.push_str(", live restore");
    }
    let mut findings = vec![Finding::good(ABOUT, text)];
    match get::<Vec<Plugin>>(&socket, "/plugins").await {
        Ok(plugins) => findings.extend(plugin(&plugins, answers)),
        Err(error) => findings.push(Finding::note(
            "plugin",
            format!("dockerd does not list its plugins: {error}"),
            "see docker plugin ls",
        )),
    }
    findings
}

fn plugin(plugins: &[Plugin], answers: bool) -> Vec<Finding> {
    const ABOUT: &str = "plugin";
    let ours = |plugin: &&Plugin| {
        plugin.name.contains("s3vol") || plugin.config.description.starts_with("s3vol")
    };
    let findings: Vec<Finding> = plugins
        .iter()
        .filter(ours)
        .map(|plugin| match plugin.enabled {
            true => Finding::good(ABOUT, format!("{} is enabled", plugin.name)),
            false => Finding::bad(
                ABOUT,
                format!("{} is disabled: its volumes cannot be used", plugin.name),
                format!("docker plugin enable {}", plugin.name),
            ),
        })
        .collect();
    match findings.len() {
        // It is run by hand.
        0 if answers => findings,
        0 => vec![Finding::note(
            ABOUT,
            "s3vol is not installed in it",
            "make plugin installs it; by hand it is s3vol plugin (docs/INSTALL.md)",
        )],
        _ => findings,
    }
}

/// The socket that the docker command would use; else what it would use instead.
fn from_environment() -> Result<PathBuf, String> {
    match std::env::var("DOCKER_HOST").ok().filter(|host| !host.trim().is_empty()) {
        None => Ok(PathBuf::from(SOCKET)),
        Some(host) => host.trim().strip_prefix("unix://").map(PathBuf::from).ok_or(host),
    }
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, String> {
    let ask = async {
        let client = Client::unix();
        let uri: hyper::Uri = Uri::new(socket, path).into();
        let request = Request::get(uri).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let answer = client.request(request).await.map_err(|error| with_causes(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body);
            return Err(format!("{status}: {}", crate::sys::shown(said.trim())));
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer makes no sense: {error}"))
    };
    let answer = tokio::time::timeout(TIMEOUT, ask).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::super::Grade;
    use super::*;

    /// Answers each request with what is said of its path.
    async fn dockerd(socket: PathBuf, said: &'static [(&'static str, u16, &'static str)]) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let found = said.iter().find(|(of, ..)| *of == path);
                let (_, status, body) = found.copied().unwrap_or((path_of_none(), 404, "{}"));
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
    }

    fn path_of_none() -> &'static str {
        ""
    }

    const VERSION: (&str, u16, &str) =
        ("/version", 200, r#"{"Version":"26.1.5","ApiVersion":"1.45"}"#);

    #[tokio::test]
    async fn a_disabled_plugin_is_named_with_its_cure_and_its_settings_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let plugins = r#"[{"Name":"other:latest","Enabled":false},
            {"Name":"s3vol:latest","Enabled":false,"Settings":{"Env":["AWS_SECRET_ACCESS_KEY=hidden"]}}]"#;
        let said: &'static [(&str, u16, &str)] = Box::leak(Box::new([
            VERSION,
            ("/info", 200, r#"{"DockerRootDir":"/var/lib/docker","LiveRestoreEnabled":true}"#),
            ("/plugins", 200, plugins),
        ]));
        dockerd(socket.clone(), said).await;
        let found = look(Some(&socket), false).await;
        assert_eq!(
            found[0].text,
            "Docker 26.1.5 (API 1.45), data in /var/lib/docker, live restore"
        );
        assert_eq!(found[1].grade, Grade::Bad);
        assert_eq!(found[1].cure.as_deref(), Some("docker plugin enable s3vol:latest"));
        assert!(!format!("{found:?}").contains("hidden"));
    }

    #[tokio::test]
    async fn what_dockerd_does_not_tell_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let said: &'static [(&str, u16, &str)] =
            Box::leak(Box::new([VERSION, ("/plugins", 403, "not for you")]));
        dockerd(socket.clone(), said).await;
        let found = look(Some(&socket), false).await;
        assert_eq!(found[0].grade, Grade::Good);
        assert!(
            found[1].text.contains("403") && found[1].text.contains("not for you"),
            "{found:?}"
        );
        let found = look(Some(&dir.path().join("none.sock")), false).await;
        assert_eq!((found.len(), found[0].grade), (1, Grade::Note), "{found:?}");
    }

    #[test]
    fn a_plugin_is_found_by_its_name_or_by_what_it_says_of_itself() {
        let one = |name: &str, description: &str| Plugin {
            name: name.to_owned(),
            enabled: true,
            config: Config { description: description.to_owned() },
        };
        let found = plugin(&[one("registry/volumes:1", "s3vol: volumes"), one("x", "")], false);
        assert_eq!((found.len(), found[0].grade), (1, Grade::Good));
        assert_eq!(plugin(&[], false)[0].grade, Grade::Note);
        assert_eq!(plugin(&[], true), []);
    }
}
