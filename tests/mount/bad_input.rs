//! What `docker volume create` says about input that cannot work: cause and cure, within 10 s.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::plugin::Plugin;
use super::rig::{Mount, Place, SOON};
use super::support::s3server::{Action, Options, Rule, TestS3};
use super::support::tls::TlsServer;

/// The refusal of a volume, in time and without a secret.
fn refused(plugin: &Plugin, name: &str, options: &[(&str, &str)]) -> String {
    let began = Instant::now();
    let error = plugin.create(name, options).expect_err("this cannot work");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: {error}");
    for secret in ["test-secret-key", "hunter2", "X-Amz-Signature"] {
        assert!(!error.contains(secret), "{error}");
        assert!(!plugin.log().contains(secret), "the log shows a secret");
    }
    println!("{name} {options:?}: {error}");
    error
}

fn expect(plugin: &Plugin, name: &str, options: &[(&str, &str)], words: &[&str]) {
    let error = refused(plugin, name, options);
    for word in words {
        assert!(error.contains(word), "{name} {options:?} lacks {word:?}: {error}");
    }
}

#[test]
fn options_and_names() {
    let server = TestS3::start();
    let plugin = Plugin::start(&server);
    let all = ["did you mean settle_after?", "url, ", "single_host", "readonly", "on_remove"];
    expect(&plugin, "v", &[("setle-after", "2s")], &all);
    expect(&plugin, "v", &[("commit", "soon")], &["commit", "soon", "5s"]);
    expect(&plugin, "v", &[("cache_size", "big")], &["cache_size", "big"]);
    expect(&plugin, "v", &[("uid", "-1")], &["uid", "-1"]);
    expect(&plugin, "v", &[("uid", "root")], &["uid", "root"]);
    expect(&plugin, "v", &[("file_mode", "0999")], &["file_mode", "0999"]);
    expect(&plugin, "v", &[("settle", "maybe")], &["settle", "maybe", "auto", "never"]);
    expect(&plugin, "v", &[("on_remove", "burn")], &["on_remove", "burn", "retain", "delete"]);
    expect(&plugin, "v", &[("readonly", "perhaps")], &["readonly", "perhaps"]);
    expect(&plugin, "v", &[("endpoint", "ftp://x")], &["endpoint", "http"]);
    expect(&plugin, "v", &[("url", "ftp://bucket/x")], &["url", "s3://"]);
    expect(&plugin, "v", &[("url", "s3://")], &["url"]);
    expect(&plugin, "v", &[("url", "s3://b/x"), ("bucket", "b")], &["url", "bucket"]);
    // Several at once are all told.
    expect(
        &plugin,
        "v",
        &[("commit", "soon"), ("uid", "x"), ("nope", "1")],
        &["commit", "uid", "nope"],
    );
    for name in
        ["../x", "..", ".", "a/b", "", ".s3vol", "a b", "a\\b", "a\0b", "ü", &"x".repeat(300)]
    {
        let error = refused(&plugin, name, &[]);
        assert!(error.contains("not allowed") || error.contains("letters"), "{name}: {error}");
    }
    let bucket = server.bucket();
    for prefix in ["../x", "a/../../x", "a/./b", "a//b", ".s3vol", ".s3vol/v"] {
        let error = refused(&plugin, "v", &[("bucket", bucket), ("prefix", prefix)]);
        assert!(error.contains("prefix"), "{prefix}: {error}");
        let error = refused(&plugin, "v", &[("url", &format!("s3://{bucket}/{prefix}"))]);
        assert!(error.contains("url"), "{prefix}: {error}");
    }
    for option in ["access_key_id", "secret_access_key", "aws-secret-access-key", "password"] {
        expect(&plugin, "v", &[(option, "hunter2")], &["docker plugin set"]);
    }
    let url = format!("s3://key:hunter2@{bucket}/v");
    expect(&plugin, "v", &[("url", &url)], &["credentials"]);
    assert!(server.keys("").is_empty(), "{:?}", server.keys(""));
}

#[test]
fn overlapping_prefixes() {
    let server = TestS3::start();
    let plugin = Plugin::start(&server);
    plugin.create("web", &[]).unwrap();
    let bucket = server.bucket();
    for prefix in ["team/web", "team/web/below"] {
        let url = format!("s3://{bucket}/{prefix}");
        expect(&plugin, "x", &[("url", &url)], &["overlaps", "volume web", "readonly=true"]);
    }
    for above in [format!("s3://{bucket}/team"), format!("s3://{bucket}")] {
        refused(&plugin, "x", &[("url", &above)]);
    }
    plugin
        .create("reader", &[("url", &format!("s3://{bucket}/team/web")), ("readonly", "true")])
        .unwrap();
    let elsewhere = [("endpoint", "http://127.0.0.1:9")];
    expect(&plugin, "web", &elsewhere, &["exists with other options", "endpoint is not set"]);
}

#[test]
fn buckets_that_cannot_be_used() {
    let server = TestS3::start();
    let plugin = Plugin::start(&server);
    expect(&plugin, "v", &[("bucket", "no-such-bucket")], &["no-such-bucket", "does not exist"]);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let url = format!("s3://{}/elsewhere", server.bucket());
    let at = |endpoint: &str, words: &[&str]| {
        expect(&plugin, "v", &[("url", &url), ("endpoint", endpoint)], words);
    };
    at(&closed, &[&closed, "connection"]);
    at("http://no-such-host.invalid:9000", &["no-such-host.invalid", "resolved"]);
    let tls = TlsServer::start();
    at(&tls.endpoint, &["certificate"]);
}

#[test]
fn a_home_that_cannot_be_used() {
    let one_key = |key: &str, secret: &str| Options {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        keys: vec![(key.to_owned(), secret.to_owned())],
        ..Options::default()
    };
    let behind = TestS3::start();
    behind.set_clock_offset(-3600);
    let ahead = TestS3::start();
    ahead.set_clock_offset(3600);
    let other_secret = TestS3::with(one_key("test-access-key", "another")).unwrap();
    let other_key = TestS3::with(one_key("another", "test-secret-key")).unwrap();
    let client = TestS3::start();
    let gone = TestS3::start();
    gone.remove_bucket();
    let denied = TestS3::start();
    denied.fault(Rule::always(None, "", Action::Status(403)));
    for (server, words) in [
        (&behind, vec!["clock"]),
        (&ahead, vec!["clock"]),
        (&other_secret, vec!["secret"]),
        (&other_key, vec!["access key"]),
        (&gone, vec!["does not exist", "test-bucket"]),
        (&denied, vec!["denied"]),
    ] {
        // The keys of one server, the endpoint of another.
        let endpoint = server.endpoint();
        let env = [
            ("S3VOL_URL", "s3://test-bucket/team"),
            ("S3VOL_ENDPOINT", &endpoint),
            ("AWS_ENDPOINT_URL", &endpoint),
        ];
        let plugin = Plugin::with(Some(&client), &env);
        expect(&plugin, "v", &[], &words);
    }
}

#[test]
fn a_store_without_create_if_absent() {
    let server = TestS3::start();
    server.fault(Rule::always(None, "", Action::IgnoreConditions));
    let mut plugin = Plugin::start(&server);
    expect(&plugin, "v", &[], &["create-if-absent", "single_host=true"]);
    assert!(server.keys("team/.s3vol/volumes/").is_empty());
    plugin.create("v", &[("single_host", "true")]).unwrap();
    let place = plugin.mount("v", "1");
    std::fs::write(place.join("f"), "alone").unwrap();
    plugin.unmount("v", "1");
    assert_eq!(super::rig::object(&server, "team/v/f").as_deref(), Some("alone"));
}

#[test]
fn a_volume_around_or_inside_another_one_is_refused() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = |prefix: &str| format!("s3://{}/{prefix}", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url("team/web"), &[]);
    for prefix in ["team/web/sub", "team/web/a/deep/place", "team"] {
        let other = Place::new();
        let mut refused = Mount::begin(Some(&server), &other, &url(prefix), &[]);
        assert_eq!(refused.ended(SOON).code(), Some(1), "{prefix}: {}", refused.said());
        let said = refused.said();
        assert!(
            said.contains(&format!("overlaps with the volume at {}/", url("team/web"))),
            "{said}"
        );
    }
    let beside = Place::new();
    Mount::start(Some(&server), &beside, &url("team/web-2"), &[]).end_well();
    mount.end_well();
}

#[test]
fn a_place_where_a_volume_is_mounted_is_refused() {
    let (server, place) = (TestS3::start(), Place::new());
    let first = format!("s3://{}/first", server.bucket());
    let mount = Mount::start(Some(&server), &place, &first, &[]);
    std::fs::write(place.file("f"), "f").unwrap();
    let second = format!("s3://{}/second", server.bucket());
    let mut refused = Mount::begin(Some(&server), &place, &second, &[]);
    assert_eq!(refused.ended(SOON).code(), Some(1), "{}", refused.said());
    assert!(refused.said().contains(&format!("{first} is mounted at")), "{}", refused.said());
    assert_eq!(std::fs::read_to_string(place.file("f")).unwrap(), "f");
    mount.end_well();
}

#[test]
fn what_mount_enforces_is_enforced() {
    let (server, place) = (TestS3::start(), Place::new());
    let url = format!("s3://{}/v", server.bucket());
    let mount = Mount::start(Some(&server), &place, &url, &["nosuid,noexec,nofail"]);
    let table = std::fs::read_to_string("/proc/mounts").unwrap();
    let at = place.at.to_str().unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(1) == Some(at)).unwrap();
    assert!(line.contains("nosuid") && line.contains("noexec"), "{line}");
    let script = place.file("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let refused = std::process::Command::new(&script).status().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    mount.end_well();
    assert!(mount_log(&place).contains("volume{name=v}"), "{}", mount_log(&place));
}

fn mount_log(place: &Place) -> String {
    std::fs::read_to_string(place.dir.path().join("log")).unwrap()
}
