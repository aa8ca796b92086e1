//! The test S3 server as a program, to try volumes without an account anywhere.
//!
//! `cargo run --example demo-s3 -- --port 9000 --bucket demo [--latency-ms 20] [--gateway] [--log]`
//!
//! Objects live in memory and are gone when it ends.

#[path = "../tests/support/s3server/mod.rs"]
mod s3server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser;

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
    for (name, value) in server.env() {
        println!("export {name}={value}");
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
