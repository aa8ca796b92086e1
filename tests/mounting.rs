//! What a mount asks of the bucket before it is served.
//!
//! Needs root and /dev/fuse.

mod support;

use support::host::Host;
use support::s3server::{Op, TestS3};

const OPTIONS: &str = "commit=5m,settle_after=0s";

#[test]
fn another_endpoint_is_refused_before_anything_is_written() {
    let server = TestS3::start();
    let mut host = Host::new(OPTIONS);
    host.mount(&server);
    assert!(host.unmount().success(), "{}", host.log());
    server.clear_log();
    let (ours, theirs) = (server.endpoint().replace("127.0.0.1", "localhost"), server.endpoint());
    assert_ne!(ours, theirs);
    let mut other = Host::new(&format!("{OPTIONS},endpoint={ours}"));
    let refused = other.try_mount(&server).unwrap_err();
    assert!(refused.contains(&format!("give endpoint={theirs}")), "{refused}");
    assert!(refused.contains(&ours), "{refused}");
    let log = server.log();
    assert!(log.iter().all(|entry| entry.only_reads()), "{log:?}");
    // The bucket comes first.
    server.remove_bucket();
    let refused = other.try_mount(&server).unwrap_err();
    assert!(refused.contains("does not exist"), "{refused}");
    server.restore_bucket();
    server.fault(support::s3server::Rule::new(
        Op::List,
        "vol/",
        9,
        support::s3server::Action::Status(403),
    ));
    let refused = other.try_mount(&server).unwrap_err();
    assert!(refused.to_lowercase().contains("denied"), "{refused}");
}
