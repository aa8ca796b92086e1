//! Credentials that have a name: only they are used, and they follow what lies in their place.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use s3vol::credentials::Places;
use s3vol::store::{Location, Properties, PutOutcome, Send, Store, StoreErrorKind, StoreSettings};
use s3vol::types::{CredentialsName, KeyPrefix, ObjectKey};

use super::TIMEOUT;
use super::google::service_account;
use super::suite::won;
use super::support::gcs::{BUCKET, TestGcs};
use super::support::s3server::{
    ACCESS_KEY, OTHER_ACCESS_KEY, OTHER_SECRET_KEY, SECRET_KEY, TestS3,
};
use super::support::stub::Stub;

pub fn put(dir: &Path, text: &str) {
    let path = dir.join("credentials/team");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn lines(key: &str, secret: &str) -> String {
    format!("AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n")
}

/// As on a host whose files lie in `dir`.
pub fn settings(dir: &Path, endpoint: String) -> StoreSettings {
    let env = BTreeMap::from([("S3VOL_FILES".to_owned(), dir.display().to_string())]);
    StoreSettings {
        endpoint: Some(endpoint),
        credentials: Some(CredentialsName::new("team").unwrap()),
        places: Some(Places::of(env)),
        ..StoreSettings::default()
    }
}

fn opened(dir: &Path, server: &TestS3) -> Store {
    let location = Location::parse(&format!("s3://{}", server.bucket())).unwrap();
    Store::open(&location, &settings(dir, server.endpoint())).unwrap()
}

pub async fn write(store: &Store, key: &str) -> PutOutcome {
    let send = Send::plain(TIMEOUT);
    store
        .put(&ObjectKey::new(key), "x".into(), &Default::default(), &Properties::default(), send)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_signed_again_with_the_keys_that_lie_there_by_now() {
    let (dir, server) = (tempfile::tempdir().unwrap(), TestS3::start());
    put(dir.path(), &lines(ACCESS_KEY, SECRET_KEY));
    let store = opened(dir.path(), &server);
    store.check(&KeyPrefix::new("")).await.unwrap();
    let engine = store.engine(&KeyPrefix::new("e")).unwrap().into_inner();
    // So lately that it might be half of a change, and the keys before have ended.
    server.only(server.bucket(), &[OTHER_ACCESS_KEY]);
    put(dir.path(), &lines(OTHER_ACCESS_KEY, OTHER_SECRET_KEY));
    server.clear_log();
    let _ = won(write(&store, "a").await);
    let log: Vec<_> = server.log().into_iter().map(|l| (l.access_key, l.status)).collect();
    let signed = |key: &str, status| (Some(key.to_owned()), status);
    assert_eq!(log, [signed(ACCESS_KEY, 403), signed(OTHER_ACCESS_KEY, 200)]);
    assert_eq!(store.credentials().unwrap().changes, 1);

    // The engine asks again by itself, and then for the keys of now.
    server.only(server.bucket(), &[ACCESS_KEY]);
    put(dir.path(), &lines(ACCESS_KEY, SECRET_KEY));
    let path = "f".into();
    let mut tries = 0;
    while let Err(error) = engine.put_opts(&path, "x".into(), Default::default()).await {
        tries += 1;
        assert!(tries < 2, "{error}");
    }
    // Nothing but keys that end says whose they were.
    server.only(server.bucket(), &[]);
    let PutOutcome::Failed(error) = write(&store, "b").await else { panic!("it was written") };
    assert_eq!(error.kind, StoreErrorKind::Denied);
    for said in ["the credentials team of the host", "credentials/team"] {
        assert!(error.message.contains(said), "{said}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_with_the_keys_of_another_profile() {
    let (dir, server) = (tempfile::tempdir().unwrap(), TestS3::start());
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
    let stub = Stub::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), move |request| {
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let has = |name: &str, value: &str| {
            url::form_urlencoded::parse(query).any(|(n, v)| n == name && v == value)
        };
        let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap());
        let signed = authorization.is_some_and(|text| {
            text.contains("Credential=source-key/") && text.contains("/sts/aws4_request")
        });
        let asked = has("Action", "AssumeRole")
            && has("RoleArn", "arn:aws:iam::1:role/s3vol")
            && has("ExternalId", "outside");
        match signed && asked {
            true => (
                200,
                format!(
                    "<AssumeRoleResponse><AssumeRoleResult><Credentials>\
                     <AccessKeyId>{ACCESS_KEY}</AccessKeyId>\
                     <SecretAccessKey>{SECRET_KEY}</SecretAccessKey>\
                     <SessionToken>a-session-token</SessionToken><Expiration>{until}</Expiration>\
                     </Credentials></AssumeRoleResult></AssumeRoleResponse>"
                ),
            ),
            false => (
                403,
                "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message>\
                 </Error></ErrorResponse>"
                    .to_owned(),
            ),
        }
    });
    let role = |source: &str| {
        format!(
            "AWS_ACCESS_KEY_ID={source}\nAWS_SECRET_ACCESS_KEY=source-secret\n\
             AWS_ROLE_ARN=arn:aws:iam::1:role/s3vol\nAWS_EXTERNAL_ID=outside\nAWS_REGION=us-east-1\n\
             AWS_ENDPOINT_URL_STS={}\n",
            stub.endpoint()
        )
    };
    put(dir.path(), &role("source-key"));
    let store = opened(dir.path(), &server);
    let _ = won(write(&store, "a").await);
    assert!(server.log().iter().all(|l| l.access_key.as_deref() != Some("source-key")));

    put(dir.path(), &role("another-key"));
    let PutOutcome::Failed(error) = write(&opened(dir.path(), &server), "b").await else {
        panic!("it was written")
    };
    let all = s3vol::telemetry::with_causes(&error).to_string();
    for said in ["the credentials team of the host", "cannot be assumed", "AccessDenied: not you"] {
        assert!(all.contains(said), "{said}: {all}");
    }
    assert!(!all.contains("source-secret"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_of_google_is_found_by_its_name() {
    let (dir, server) = (tempfile::tempdir().unwrap(), TestGcs::start());
    let location = Location::parse(&format!("gs://{BUCKET}")).unwrap();
    let open = || Store::open(&location, &settings(dir.path(), server.endpoint()));
    let missing = open().unwrap_err();
    assert!(missing.message.contains("has no credentials team"), "{missing}");
    put(dir.path(), &lines(ACCESS_KEY, SECRET_KEY));
    let wrong = open().unwrap_err();
    assert!(wrong.message.contains("GOOGLE_SERVICE_ACCOUNT_KEY is missing"), "{wrong}");
    put(dir.path(), &std::fs::read_to_string(service_account(dir.path())).unwrap());
    let store = open().unwrap();
    let _ = won(write(&store, "a").await);
    assert_eq!(server.names(), ["a"]);
}
