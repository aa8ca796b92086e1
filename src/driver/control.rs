//! Talking to a worker through its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyperlocal::{UnixClientExt, UnixConnector, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Deadline;
use crate::config::VolumeOptions;
use crate::metrics::Group;
use crate::worker::{
    Asked, DrainReply, EventPage, SPOKEN_HEADER, SettleReply, Since, WORKER_PROTOCOL, WorkerStatus,
};

/// No answer is longer: a worker counts some 30 KiB, and the plugin has hundreds of them.
const LONGEST_ANSWER: usize = 64 << 20;
/// Between attempts to reach a worker that has just been started.
const CONNECT_PACE: Duration = Duration::from_millis(20);

/// Why a worker gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It answered with an error; the text is for the user.
    #[error("{text}")]
    Refused { status: u16, text: String },
    /// Nobody listens at the socket.
    #[error("the volume's worker does not answer at {path}: {source}")]
    Unreachable {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is of another version.
    #[error("{0}")]
    OtherProtocol(String),
    #[error("the volume's worker did not answer in time")]
    Timeout,
    #[error("the volume's worker gave an answer that cannot be read: {0}")]
    Nonsense(#[from] serde_json::Error),
}

/// Why a process does not leave its volume.
#[derive(Debug)]
pub enum Stays {
    /// It is in use there.
    Serves(Box<WorkerStatus>),
    /// It does not say whether it goes.
    Silent(ControlError),
}

/// A client of one control socket.
#[derive(Debug, Clone)]
pub struct ControlClient {
    socket: PathBuf,
    client: Client<UnixConnector, Full<Bytes>>,
}

impl ControlClient {
    /// Connects with the first request.
    pub fn new(socket: &Path) -> Self {
        ControlClient { socket: socket.to_owned(), client: Client::unix() }
    }

    /// Where the worker stands.
    pub async fn status(&self, timeout: Duration) -> Result<WorkerStatus, ControlError> {
        let body = self.send(Method::GET, "/status", timeout).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// What it counts.
    pub async fn group(&self, timeout: Duration) -> Result<Group, ControlError> {
        let body = self.send(Method::GET, "/samples", timeout).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// A call of the plugin's own socket: what all its workers count.
    pub async fn groups(&self, timeout: Duration) -> Result<Vec<Group>, ControlError> {
        let body = self.send(Method::GET, "/S3vol.Samples", timeout).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// What happened since; waits for that for a while, so `timeout` should be more than 20 s.
    pub async fn events(
        &self,
        since: &Since,
        timeout: Duration,
    ) -> Result<EventPage, ControlError> {
        let path = format!("/events?{}", since.query());
        let body = self.send(Method::GET, &path, timeout).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Waits until the volume is served. A worker that does not listen yet is waited for too.
    pub async fn ready(&self, deadline: Deadline) -> Result<(), ControlError> {
        loop {
            match self.send(Method::GET, "/ready", deadline.left()).await {
                // The socket appears when the process has come so far; nothing announces it.
                Err(ControlError::Unreachable { .. }) if !deadline.passed() => {
                    tokio::time::sleep(CONNECT_PACE.min(deadline.left())).await;
                }
                Err(ControlError::Unreachable { .. }) => return Err(ControlError::Timeout),
                other => return other.map(drop),
            }
        }
    }

    /// Commits everything and yields the lease.
    pub async fn drain(&self, timeout: Duration) -> Result<DrainReply, ControlError> {
        self.drain_as(Asked::now(), timeout).await
    }

    /// As [`ControlClient::drain`], unless somebody took the volume into use since that was asked for.
    pub async fn drain_as(
        &self,
        asked: Asked,
        timeout: Duration,
    ) -> Result<DrainReply, ControlError> {
        let body = self.post("/drain", &asked, timeout).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Takes a draining volume back into use; `false` when it is gone.
    pub async fn resume(&self, timeout: Duration) -> Result<bool, ControlError> {
        match self.post("/resume", &Asked::now(), timeout).await {
            Ok(_) => Ok(true),
            Err(ControlError::Refused { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks a process that is ending to leave the volume at once; `false` when it stays.
    async fn leave(&self, timeout: Duration) -> Result<bool, ControlError> {
        match self.send(Method::POST, "/leave", timeout).await {
            Ok(_) => Ok(true),
            Err(ControlError::Refused { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has the process at this socket leave its volume. `false`: there is none, and the socket was left by one that
    /// was killed; `true`: it is going.
    pub async fn vacate(&self, timeout: Duration) -> Result<bool, Stays> {
        match self.leave(timeout).await {
            Ok(true) => Ok(true),
            Err(ControlError::Unreachable { .. }) => Ok(false),
            Ok(false) | Err(_) => match self.status(timeout).await {
                Err(ControlError::Unreachable { .. }) => Ok(false),
                Ok(status) => Err(Stays::Serves(Box::new(status))),
                Err(error) => Err(Stays::Silent(error)),
            },
        }
    }

    /// Commits and settles for a slice of time.
    pub async fn settle(&self, timeout: Duration) -> Result<SettleReply, ControlError> {
        let body = self.send(Method::POST, "/settle", timeout).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Has the worker follow options that were changed.
    pub async fn tune(
        &self,
        options: &VolumeOptions,
        timeout: Duration,
    ) -> Result<(), ControlError> {
        self.post("/tune", options, timeout).await.map(drop)
    }

    /// A call of the plugin's own socket.
    pub async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, ControlError> {
        Ok(serde_json::from_slice(&self.post(path, body, timeout).await?)?)
    }

    async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<Bytes, ControlError> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        let answer = self.exchange(Method::POST, path, body);
        // The cause is the time, nothing else.
        tokio::time::timeout(timeout, answer).await.map_err(|_| ControlError::Timeout)?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        timeout: Duration,
    ) -> Result<Bytes, ControlError> {
        match tokio::time::timeout(timeout, self.exchange(method, path, Bytes::new())).await {
            Ok(answer) => answer,
            Err(_) => Err(ControlError::Timeout),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ControlError> {
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| {
            ControlError::Unreachable { path: self.socket.display().to_string(), source }
        };
        let uri: hyper::Uri = Uri::new(&self.socket, path).into();
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(SPOKEN_HEADER, WORKER_PROTOCOL.to_string())
            .body(Full::new(body))
            .map_err(|e| unreachable(Box::new(e)))?;
        let answer = self.client.request(request).await.map_err(|e| unreachable(Box::new(e)))?;
        let status = answer.status();
        let theirs = answer.headers().get(SPOKEN_HEADER).map(|value| value.to_str().unwrap_or(""));
        WORKER_PROTOCOL
            .agree_with_text("the volume's worker", theirs)
            .map_err(ControlError::OtherProtocol)?;
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
            .collect()
            .await
            .map_err(unreachable)?
            .to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        // The plugin says it as Docker wants it; what is no JSON is told as it is.
        let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let text = said.as_ref().and_then(|said| said["Err"].as_str()).map(str::to_owned);
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
        Err(ControlError::Refused { status: status.as_u16(), text })
    }
}
