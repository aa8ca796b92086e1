//! Metrics as Prometheus gets them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use s3vol::metrics::{FAMILIES, Family, Kind};

const PATIENCE: Duration = Duration::from_secs(20);

/// What one scrape found.
#[derive(Debug, Clone)]
pub struct Scrape(pub String);

impl Scrape {
    /// Over a unix socket.
    pub fn socket(path: &Path) -> std::io::Result<Scrape> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        get(stream, "/metrics").map(Scrape)
    }

    /// Over TCP.
    pub fn address(address: &str) -> std::io::Result<Scrape> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        get(stream, "/metrics").map(Scrape)
    }

    /// The names of all samples.
    pub fn names(&self) -> BTreeSet<String> {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
        samples.map(name).filter(|name| !name.is_empty()).collect()
    }

    /// The sum of the samples of this name whose labels contain all of these.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.values(name, labels).iter().sum()
    }

    pub fn values(&self, name: &str, labels: &[&str]) -> Vec<f64> {
        let is = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse().ok()).unwrap();
        self.0.lines().filter(is).map(value).collect()
    }
}

/// The names of the samples of a metric.
pub fn samples_of(family: &Family) -> Vec<String> {
    match family.kind {
        Kind::Counter | Kind::Gauge => vec![family.name.to_owned()],
        Kind::Histogram => {
            ["bucket", "sum", "count"].map(|part| format!("{}_{part}", family.name)).into()
        }
    }
}

/// Of all metrics.
pub fn all_samples() -> BTreeSet<String> {
    FAMILIES.iter().flat_map(samples_of).collect()
}

/// The body of a good answer.
pub fn get(mut stream: impl Read + Write, path: &str) -> std::io::Result<String> {
    // HTTP/1.0: no answer comes in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: s3vol\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) != Some("200") {
        return Err(std::io::Error::other(head.to_owned()));
    }
    Ok(body.to_owned())
}
