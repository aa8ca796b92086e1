//! The plugin itself, wherever it listens: whether it answers, and which version it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::Finding;
use crate::driver::{ControlClient, ControlError, RunningProgram};
use crate::worker::version;

const ABOUT: &str = "plugin";
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    program: RunningProgram,
}

pub(super) async fn look(sockets: &[PathBuf]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for socket in sockets {
        let asked = ControlClient::new(socket).call("/S3vol.Program", &json!({}), TIMEOUT).await;
        let answer = asked.map(|answer: Answer| answer.program.version);
        findings.push(judge(socket, answer, version()));
    }
    findings
}

/// `own`: the version of this program.
fn judge(socket: &Path, answer: Result<String, ControlError>, own: &str) -> Finding {
    let at = socket.display();
    match answer {
        Ok(version) if version == own => {
            Finding::good(ABOUT, format!("version {version} answers at {at}"))
        }
        Ok(version) => Finding::note(
            ABOUT,
            format!("version {version} answers at {at}, and this program is version {own}"),
            "s3vol upgrade puts another version of the plugin in place while containers run (docs/UPGRADING.md)",
        ),
        Err(ControlError::Refused { status: 404, .. }) => Finding::note(
            ABOUT,
            format!("one answers at {at}, and does not tell its version"),
            "it is an old one; docs/INSTALL.md says how to replace it",
        ),
        Err(ControlError::Unreachable { source, .. }) if is_denied(&*source) => Finding::note(
            ABOUT,
            format!("the one at {at} cannot be asked: {source}"),
            "run it as root",
        ),
        Err(error) => Finding::bad(
            ABOUT,
            match error {
                ControlError::Unreachable { source, .. } => {
                    format!("none answers at {at}: {source}")
                }
                ControlError::Timeout => {
                    format!("none answers at {at} within {} s", TIMEOUT.as_secs())
                }
                other => format!("what answers at {at} is no plugin: {other}"),
            },
            "its log says why: journalctl -u docker, or -u s3vol where it is a service; if none is to run there, remove \
             that file",
        ),
    }
}

fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn one_that_may_not_be_asked_is_no_fault_of_it() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let answer = Err(ControlError::Unreachable { path: "s".into(), source: Box::new(denied) });
        assert_eq!(judge(Path::new("s"), answer, "1").grade, Grade::Note);
    }

    #[tokio::test]
    async fn one_that_is_gone_is_bad() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s3vol.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let found = look(&[socket]).await;
        assert_eq!((found.len(), found[0].grade), (1, Grade::Bad), "{found:?}");
    }

    #[test]
    fn another_version_is_noted() {
        let judged = |answer| judge(Path::new("/s"), answer, "1.2.3");
        assert_eq!(judged(Ok("1.2.3".to_owned())).grade, Grade::Good);
        assert_eq!(judged(Ok("1.2.4".to_owned())).grade, Grade::Note);
        let unknown = ControlError::Refused { status: 404, text: String::new() };
        assert_eq!(judged(Err(unknown)).grade, Grade::Note);
    }
}
