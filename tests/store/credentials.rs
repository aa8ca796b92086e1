//! Credentials that come from services: stubs of them give keys that the S3 test server knows, and
//! the keys that follow when these run out.
//!
//! The environment says where such a service is, and a process with threads must not change it: a
//! process of its own opens the store. Nothing here ran inside AWS.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use s3vol::store::{Location, Properties, Store, StoreErrorKind, StoreSettings};
use s3vol::types::{KeyPrefix, ObjectKey};

use super::TIMEOUT;
use super::suite::won;
use super::support::s3server::{
    ACCESS_KEY, OTHER_ACCESS_KEY, OTHER_SECRET_KEY, Op, SECRET_KEY, TestS3,
};
use super::support::stub::Stub;
use super::support::wait_for_async;

const SIGNED: &str = "credentials::inside::requests_are_signed_with_what_the_service_gives";
const REFUSED: &str = "credentials::inside::a_service_that_gives_nothing_is_told";
const RELATIVE: &str = "/v2/credentials/a-task";

/// Gives the first keys for a minute, which is so short that they are renewed at the next request,
/// and the second ones for an hour.
#[derive(Debug, Clone, Default)]
struct Issuer(Arc<AtomicU64>);

impl Issuer {
    fn issued(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Access key, secret and expiry.
    fn keys(&self) -> (&'static str, &'static str, String) {
        let (key, secret, seconds) = match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => (ACCESS_KEY, SECRET_KEY, 60),
            _ => (OTHER_ACCESS_KEY, OTHER_SECRET_KEY, 3600),
        };
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        (key, secret, until.to_string())
    }

    fn json(&self) -> String {
        let (key, secret, until) = self.keys();
        serde_json::json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": "a-session-token",
            "Expiration": until,
        })
        .to_string()
    }

    fn xml(&self) -> String {
        let (key, secret, until) = self.keys();
        format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>a-session-token</SessionToken><Expiration>{until}</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
    }
}

fn header<'r>(request: &'r Request<Bytes>, name: &str) -> &'r str {
    request.headers().get(name).map_or("", |v| v.to_str().unwrap())
}

fn on_loopback(answer: impl Fn(&Request<Bytes>) -> (u16, String) + Send + Sync + 'static) -> Stub {
    Stub::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answer)
}

/// This test program with nothing of AWS in its environment but what is given.
fn outside(mut command: Command, test: &str, environment: &[(&str, &str)]) {
    command.args([test, "--exact", "--ignored", "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

fn this_program() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

#[test]
fn instance_metadata() {
    let issuer = Issuer::default();
    let gives = issuer.clone();
    let stub = on_loopback(move |request| {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let session = header(request, "x-aws-ec2-metadata-token") == "a-metadata-token";
        match (request.method(), request.uri().path()) {
            (&Method::PUT, "/latest/api/token")
                if !header(request, "x-aws-ec2-metadata-token-ttl-seconds").is_empty() =>
            {
                (200, "a-metadata-token".into())
            }
            _ if !session => (401, String::new()),
            (&Method::GET, ROLES) => (200, "a-role".into()),
            (&Method::GET, path) if path.strip_prefix(ROLES) == Some("a-role") => {
                (200, gives.json())
            }
            _ => (404, String::new()),
        }
    });
    outside(this_program(), SIGNED, &[("AWS_METADATA_ENDPOINT", &stub.endpoint())]);
    assert_eq!(issuer.issued(), 2, "good keys are kept");
    let standard = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*stub.endpoint());
    outside(this_program(), SIGNED_ONCE, &[standard]);
}

#[test]
fn web_identity() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "a-web-token").unwrap();
    let issuer = Issuer::default();
    let gives = issuer.clone();
    let stub = on_loopback(move |request| {
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let has = |name: &str, value: &str| {
            url::form_urlencoded::parse(query).any(|(n, v)| n == name && v == value)
        };
        let right = request.method() == Method::POST
            && has("Action", "AssumeRoleWithWebIdentity")
            && has("WebIdentityToken", "a-web-token")
            && has("RoleArn", "arn:aws:iam::1:role/s3vol");
        if right { (200, gives.xml()) } else { (403, String::new()) }
    });
    outside(
        this_program(),
        SIGNED,
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/s3vol"),
            ("AWS_ENDPOINT_URL_STS", &stub.endpoint()),
        ],
    );
    assert_eq!(issuer.issued(), 2);
}

#[test]
fn pod_identity() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "a-pod-token").unwrap();
    let issuer = Issuer::default();
    let gives = issuer.clone();
    let stub = on_loopback(move |request| match request.uri().path() {
        "/v1/credentials" if header(request, "authorization") == "a-pod-token" => {
            (200, gives.json())
        }
        _ => (401, String::new()),
    });
    outside(
        this_program(),
        SIGNED,
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/v1/credentials", stub.endpoint())),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
        ],
    );
    assert_eq!(issuer.issued(), 2);
}

/// Tasks ask a fixed address, which only a network of our own can give to a stub.
#[test]
fn task_role() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a network namespace needs root");
        return;
    }
    let mut inside = Command::new("unshare");
    inside
        .args(["--net", "sh", "-ec"])
        .arg("ip link set lo up; ip address add 169.254.170.2/32 dev lo; exec \"$0\" \"$@\"");
    inside.arg(std::env::current_exe().unwrap());
    outside(inside, SIGNED, &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", RELATIVE)]);
}

#[test]
fn no_service_answers() {
    let stub = on_loopback(|_| (404, String::new()));
    outside(this_program(), REFUSED, &[("AWS_METADATA_ENDPOINT", &stub.endpoint())]);
    let closed = {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    outside(this_program(), REFUSED, &[("AWS_METADATA_ENDPOINT", &closed)]);
}

const SIGNED_ONCE: &str = "credentials::inside::the_service_is_found";

mod inside {
    use super::*;

    fn store(server: &TestS3) -> Store {
        let location = Location::parse(&format!("s3://{}", server.bucket())).unwrap();
        let endpoint = Some(server.endpoint());
        Store::open(&location, &StoreSettings { endpoint, ..StoreSettings::default() }).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that the tests outside give it"]
    async fn requests_are_signed_with_what_the_service_gives() {
        let issuer = Issuer::default();
        let gives = issuer.clone();
        let task = std::env::var_os("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|_| {
            Stub::start(SocketAddr::from(([169, 254, 170, 2], 80)), move |request| {
                match request.uri().path() {
                    RELATIVE => (200, gives.json()),
                    _ => (404, String::new()),
                }
            })
        });
        let server = TestS3::start();
        let store = store(&server);
        store.check(&KeyPrefix::new("")).await.unwrap();
        let used = |op: Op| {
            let log = server.log();
            log.iter().rev().find(|l| l.op == op).and_then(|l| l.access_key.clone())
        };
        assert_eq!(used(Op::List).as_deref(), Some(ACCESS_KEY));
        let key = ObjectKey::new("k");
        wait_for_async("the keys are renewed", Duration::from_secs(10), async || {
            store.head(&key, TIMEOUT).await.unwrap();
            (used(Op::Head).as_deref() == Some(OTHER_ACCESS_KEY)).then_some(())
        })
        .await;
        let send = s3vol::store::Send::plain(TIMEOUT);
        let _ = won(store
            .put(&key, "x".into(), &Default::default(), &Properties::default(), send)
            .await);
        assert_eq!(used(Op::Put).as_deref(), Some(OTHER_ACCESS_KEY));
        assert!(
            server.log().iter().all(|l| l.status < 400 || l.op == Op::Head || l.op == Op::Bucket)
        );
        assert!(task.is_none() || issuer.issued() == 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that the tests outside give it"]
    async fn the_service_is_found() {
        let server = TestS3::start();
        store(&server).check(&KeyPrefix::new("")).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs the environment that the tests outside give it"]
    async fn a_service_that_gives_nothing_is_told() {
        let server = TestS3::start();
        let began = Instant::now();
        let error = store(&server).check(&KeyPrefix::new("")).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert!(error.message.contains("no credentials"), "{error}");
    }
}
