//! boto3, somebody else's client, against the project's server and `moto`: what it puts on an object
//! is read and written again without a loss.

use std::process::Command;

use serde_json::Value;

use s3vol::store::{Properties, Send, Store};
use s3vol::types::ObjectKey;

use super::suite::won;
use super::support::moto::{Moto, python};
use super::support::s3server::TestS3;
use super::{TIMEOUT, s3, store_of};

struct Boto<'a> {
    endpoint: &'a str,
    bucket: &'a str,
    keys: [&'a str; 2],
}

impl Boto<'_> {
    /// Puts an object or not, and tells what it sees of it.
    fn run(&self, verb: &str, key: &str) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/boto.py");
        let output = Command::new(python())
            .args([script, self.endpoint, self.bucket, self.keys[0], self.keys[1], verb, key])
            .env("NO_PROXY", "*")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What it put is read, put elsewhere and copied, and it sees the same there.
    async fn both_ways(&self, store: &Store) -> Value {
        let theirs = self.run("put", "theirs");
        let key = ObjectKey::new("theirs");
        let info = store.head(&key, TIMEOUT).await.unwrap().unwrap();
        let tags = store.get_tags(&key, TIMEOUT).await.unwrap();
        let properties = Properties { tags, ..info.properties };
        let plain = || Send::plain(TIMEOUT);
        let (put, copy) = (ObjectKey::new("put"), ObjectKey::new("copy"));
        let body = "<html>".into();
        let _ = won(store.put(&put, body, &info.attributes, &properties, plain()).await);
        assert_eq!(self.run("show", "put"), theirs);
        let unknown = Properties { tags: None, ..properties };
        let copied = store.copy(&key, &info.version, &copy, &info.attributes, &unknown, plain());
        let _ = won(copied.await);
        assert_eq!(self.run("show", "copy"), theirs);
        theirs
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_boto3_puts_on_an_object_stays() {
    let server = TestS3::start();
    let endpoint = server.endpoint();
    let keys = [server.access_key(), server.secret_key()];
    let ours = Boto { endpoint: &endpoint, bucket: server.bucket(), keys };
    let seen = ours.both_ways(&store_of(&server)).await;
    assert_eq!(seen["headers"].as_object().unwrap().len(), 10, "{seen}");
    assert_eq!(seen["metadata"]["my-key.2"], "a  b=c");
    assert_eq!(seen["tags"]["a b"], "c+d=e");

    let moto = Moto::start().await;
    let store = s3(&moto.endpoint, &moto.bucket, "any", "any");
    let theirs = Boto { endpoint: &moto.endpoint, bucket: &moto.bucket, keys: ["any", "any"] };
    let there = theirs.both_ways(&store).await;
    assert_eq!((&there["headers"], &there["tags"]), (&seen["headers"], &seen["tags"]));
}
