//! A store, or whoever answers in its place, that says anything.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use s3vol::store::{
    Attributes, ListRequest, Location, Properties, Send, StaticKeys, Store, StoreErrorKind,
    StoreSettings,
};
use s3vol::types::{ObjectKey, Secret};

use crate::random::Random;

/// Long enough for a loopback answer; a refusal is tried again until then.
const SHORT: Duration = Duration::from_millis(150);

/// Says to everybody what it was told to.
struct Anything {
    port: u16,
    says: Arc<Mutex<Vec<u8>>>,
}

impl Anything {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::<Mutex<Vec<u8>>>::default();
        let answer = Arc::clone(&says);
        // Ends with the program.
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 16 << 10];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(&answer.lock().clone());
            }
        });
        Anything { port, says }
    }

    fn store(&self) -> Store {
        let settings = StoreSettings {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: Some("x".to_owned()),
            path_style: Some(true),
            keys: Some(StaticKeys { key: "k".into(), secret: Secret::new("s"), token: None }),
            ..StoreSettings::of(&Default::default())
        };
        Store::open(&Location::parse("s3://bucket/data").unwrap(), &settings).unwrap()
    }
}

const LISTED: &str = "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><KeyCount>1</KeyCount>\
    <MaxKeys>10</MaxKeys><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
    <Contents><Key>data/a%20b</Key><LastModified>2026-11-29T00:00:00.000Z</LastModified>\
    <ETag>&quot;e&quot;</ETag><Size>5</Size></Contents><CommonPrefixes><Prefix>data/d/</Prefix>\
    </CommonPrefixes></ListBucketResult>";
const REFUSED: &str = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
const TAGGED: &str = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>";

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\r\n{body}")
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_says_is_an_answer_or_an_error() {
    let server = Anything::start();
    let store = server.store().backend();
    let about = "ETag: \"e\"\r\nLast-Modified: Sun, 29 Nov 2026 00:00:00 GMT\r\nx-amz-meta-mode: 420\r\n\
        Date: Sun, 29 Nov 2026 00:00:00 GMT\r\nContent-Range: bytes 0-4/5";
    let right = [
        http("200 OK", about, LISTED),
        http("206 Partial Content", about, "bytes"),
        http("200 OK", about, TAGGED),
        http("403 Forbidden", about, REFUSED),
        http("412 Precondition Failed", about, REFUSED),
    ];
    let key = ObjectKey::new("data/key");
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut answer = random.pick(&right).clone();
        for _ in 0..1 + random.below(3) {
            answer = random.damaged(&answer);
        }
        *server.says.lock() = answer;
        let list =
            ListRequest { prefix: "data/".into(), delimiter: true, token: None, max_keys: 9 };
        let (attributes, properties) = (Attributes::new(), Properties::default());
        let put = store.put(&key, Bytes::new(), &attributes, &properties, Send::plain(SHORT));
        let all = async {
            tokio::join!(
                store.list(list, SHORT),
                store.head(&key, SHORT),
                store.get(&key, Some(0..5), None, SHORT),
                store.get(&key, None, None, SHORT),
                store.get_tags(&key, SHORT),
                put,
                store.delete(&key, Send::plain(SHORT)),
            )
        };
        let ended = tokio::time::timeout(100 * SHORT, all).await;
        assert!(ended.is_ok(), "seed {seed} hangs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_end_is_not_kept_in_memory() {
    let server = Anything::start();
    let store = server.store().backend();
    let long = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 1000000000000\r\n\r\nbytes";
    *server.says.lock() = long.as_bytes().to_vec();
    let key = ObjectKey::new("data/key");
    let error = store.get(&key, None, None, Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Protocol, "{error}");
    assert!(error.message.contains("longer than anything"), "{error}");
}
