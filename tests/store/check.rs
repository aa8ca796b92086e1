//! `check` tells each cause of an unusable bucket apart, soon enough for somebody who waits.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use s3vol::store::{Store, StoreError, StoreErrorKind};
use s3vol::types::KeyPrefix;

use super::support::s3server::{Action, Op, Rule, TestS3};
use super::support::stub::Stub;
use super::{s3, store_of};

/// The refusal of a store, within ten seconds and with none of the secrets.
async fn refusal(store: &Store) -> StoreError {
    let began = Instant::now();
    let error = store.check(&KeyPrefix::new("prefix")).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}: {error}", began.elapsed());
    let text = format!("{error} {error:?}");
    for secret in ["the-wrong-secret", "test-secret-key", "X-Amz-Signature"] {
        assert!(!text.contains(secret), "{text}");
    }
    error
}

#[tokio::test]
async fn a_good_bucket_passes_and_stays_as_it_is() {
    let server = TestS3::start();
    store_of(&server).check(&KeyPrefix::new("prefix")).await.unwrap();
    assert!(server.keys("").is_empty());
    assert_eq!(server.count(Op::Put) + server.count(Op::Delete), 0);
}

#[tokio::test]
async fn each_cause_has_a_message_of_its_own() {
    use StoreErrorKind::{ClockSkew, Denied, NoBucket, Tls, Unreachable};
    let server = TestS3::start();
    let (endpoint, bucket) = (server.endpoint(), server.bucket());
    let (key, secret) = (server.access_key(), server.secret_key());
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let tls = TlsServer::start();
    let behind = TestS3::start();
    behind.set_clock_offset(3600);
    let denied = TestS3::start();
    denied.fault(Rule::always(None, "", Action::Status(403)));

    // The words are the cause and what the user can look for.
    let cases = [
        (
            "wrong secret",
            s3(&endpoint, bucket, key, "the-wrong-secret"),
            Denied,
            "secret does not fit",
        ),
        ("unknown key", s3(&endpoint, bucket, "unknown-key", secret), Denied, "does not know"),
        (
            "missing bucket",
            s3(&endpoint, "no-such-bucket", key, secret),
            NoBucket,
            "no-such-bucket",
        ),
        ("closed port", s3(&closed, bucket, key, secret), Unreachable, "connection"),
        (
            "unknown host",
            s3("http://no-such-host.invalid:9000", bucket, key, secret),
            Unreachable,
            "resolved",
        ),
        ("clock", store_of(&behind), ClockSkew, "clock is 1 hour behind"),
        ("access denied", store_of(&denied), Denied, "denied"),
        ("certificate", s3(&tls.endpoint, bucket, key, secret), Tls, "certificate"),
        (
            "plain HTTP at a TLS port",
            s3(&tls.endpoint.replace("https", "http"), bucket, key, secret),
            Unreachable,
            "",
        ),
        (
            "TLS at a plain HTTP port",
            s3(&endpoint.replace("http", "https"), bucket, key, secret),
            Tls,
            "http://",
        ),
    ];
    let mut messages = Vec::<(&str, String)>::new();
    let mut wrong = Vec::new();
    for (name, store, kind, word) in &cases {
        let error = refusal(store).await;
        println!("{name}: {:?}: {error}", error.kind);
        if error.kind != *kind || !error.to_string().to_lowercase().contains(word) {
            wrong.push(format!(
                "{name}: {:?} instead of {kind:?} and {word:?}: {error}",
                error.kind
            ));
        }
        // Without the names of the case, nothing but the cause differs.
        let message = [endpoint.as_str(), &closed, &tls.endpoint, &denied.endpoint()]
            .iter()
            .fold(error.to_string(), |text, name| text.replace(name, "ENDPOINT"));
        if let Some((other, _)) = messages.iter().find(|(_, m)| *m == message) {
            wrong.push(format!("{name} reads like {other}: {message}"));
        }
        messages.push((name, message));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_wrong_region_names_the_right_one() {
    let only_in_the_message = "<Error><Code>AuthorizationQueryParametersError</Code><Message>Error \
                               parsing the X-Amz-Credential parameter; the region 'us-east-1' is \
                               wrong; expecting 'eu-9'</Message></Error>";
    for answer in [
        "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-9</Region></Error>",
        only_in_the_message,
    ] {
        let server = Stub::start(([127, 0, 0, 1], 0).into(), move |_| (400, answer.to_owned()));
        let error = refusal(&s3(&server.endpoint(), "bucket", "key", "the-wrong-secret")).await;
        assert_eq!(error.kind, StoreErrorKind::Unsupported, "{error}");
        assert!(error.message.contains("set region=eu-9"), "{error}");
    }
}

/// A TLS server with a certificate that nobody signed.
struct TlsServer {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl TlsServer {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=nobody signed this", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), cert.as_os_str()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        const SERVE: &str = "
import http.server, ssl, sys
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";
        let mut child = Command::new("python3")
            .args(["-c", SERVE])
            .args([&cert, &key])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let endpoint = format!("https://127.0.0.1:{}", port.trim());
        TlsServer { child, endpoint, _dir: dir }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
