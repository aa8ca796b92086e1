//! The test S3 server as a program, to try volumes without an account anywhere.
//!
//! `cargo run --example demo-s3 -- --port 9000 --bucket demo [--latency-ms 20] [--gateway] [--log]`
//!
//! With `--control` a program steers it: `latency MS`, `requests`, `files PREFIX` and `empty`, one a line on standard
//! input, each answered with a line of JSON. It ends with the input.
//!
//! Objects live in memory and are gone when it ends.

#[path = "../tests/support/s3server/mod.rs"]
mod s3server;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use serde_json::{Value, json};

/// An S3 server in memory, for demonstrations.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// The bucket to make.
    #[arg(long, default_value = "demo")]
    bucket: String,
    #[arg(long, default_value = s3server::ACCESS_KEY)]
    access_key: String,
    #[arg(long, default_value = s3server::SECRET_KEY)]
    secret_key: String,
    /// Every request waits this long, as if the store were far away.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Speak as Ceph RGW 16 does.
    #[arg(long)]
    gateway: bool,
    /// Print each request.
    #[arg(long)]
    log: bool,
    /// Take commands from standard input, and end with it.
    #[arg(long, conflicts_with = "log")]
    control: bool,
}

/// The requests since the last time by operation, and the bytes of their bodies.
fn requests(server: &s3server::TestS3) -> Value {
    let log = server.take_log();
    let mut operations: BTreeMap<String, u64> = BTreeMap::new();
    for request in &log {
        *operations.entry(format!("{:?}", request.op)).or_default() += 1;
    }
    let sent: u64 = log.iter().map(|request| request.bytes_in).sum();
    let fetched: u64 = log.iter().map(|request| request.bytes_out).sum();
    json!({ "operations": operations, "sent": sent, "fetched": fetched })
}

fn command(server: &s3server::TestS3, line: &str) -> anyhow::Result<Value> {
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "latency" => server.set_latency(Duration::from_millis(argument.parse()?)),
        "requests" => return Ok(requests(server)),
        "files" => {
            let (files, bytes) = server.files(argument);
            return Ok(json!({ "files": files, "bytes": bytes }));
        }
        "empty" => server.replace_all(Vec::new()),
        _ => anyhow::bail!("unknown command: {line}"),
    }
    Ok(json!({}))
}

fn control(server: &s3server::TestS3) -> anyhow::Result<()> {
    println!("{}", json!(server.env().into_iter().collect::<BTreeMap<_, _>>()));
    for line in std::io::stdin().lines() {
        let line = line?;
        println!("{}", command(server, &line).with_context(|| line.clone())?);
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let server = s3server::TestS3::with(s3server::Options {
        address: SocketAddr::new(arguments.host, arguments.port),
        bucket: arguments.bucket,
        keys: vec![(arguments.access_key, arguments.secret_key)],
        print: arguments.log,
    })?;
    server.set_latency(Duration::from_millis(arguments.latency_ms));
    if arguments.gateway {
        server.speak_as_gateway();
    }
    if arguments.control {
        return control(&server);
    }
    for (name, value) in server.env() {
        println!("export {name}={value}");
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
