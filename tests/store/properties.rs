//! Steps about what an object carries besides its bytes; then what only the test server can show.

use s3vol::store::{
    Attributes, Encryption, Header, Location, Properties, PutOutcome, STANDARD, Send, Store,
    StoreErrorKind, StoreSettings, Tags,
};
use s3vol::types::{KeyPrefix, ObjectKey};

use super::suite::{FIRST, Traits, Under, failed, lost, won};
use super::support::s3server::{Op, TestS3};
use super::{TIMEOUT, settings, store_of};

fn plain() -> Send {
    Send::plain(TIMEOUT)
}

fn tags(pairs: &[(&str, &str)]) -> Option<Tags> {
    Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// One of everything that the store keeps.
fn full(traits: Traits) -> Properties {
    let headers = Header::ALL.map(|header| {
        let value = match header {
            Header::ContentType => "text/html; charset=utf-8",
            Header::CacheControl => "max-age=60, public",
            Header::ContentDisposition => "attachment; filename=\"a b.html\"",
            Header::ContentEncoding => "gzip",
            Header::ContentLanguage => "de, en",
            Header::Expires => "Wed, 21 Oct 2037 07:28:00 GMT",
            Header::WebsiteRedirectLocation => "/other",
        };
        (header, value.to_owned())
    });
    let extra = [Header::Expires, Header::WebsiteRedirectLocation];
    Properties {
        headers: headers
            .into_iter()
            .filter(|(header, _)| traits.redirects || !extra.contains(header))
            .collect(),
        tags: tags(&[("team", "web"), ("a b", "c+d=e")]).filter(|_| traits.tags),
        class: traits.class.map(str::to_owned),
        encryption: traits
            .encryption
            .then(|| Encryption { algorithm: "AES256".into(), key_id: None }),
        acl: None,
    }
}

/// What HEAD and GET show of an object, with its tags asked for.
async fn seen(under: &Under<'_>, traits: Traits, name: &str) -> Properties {
    let key = under.key(name);
    let info = under.store.head(&key, TIMEOUT).await.unwrap().unwrap();
    let got = under.store.get(&key, None, None, TIMEOUT).await.unwrap().info;
    let class = info.properties.class.clone().filter(|_| traits.get_tells_class);
    let told = Properties { class, ..info.properties.clone() };
    assert_eq!(told, got.properties, "GET and HEAD show the same");
    assert_eq!(info.properties.tags, None);
    let tags = under.store.get_tags(&key, TIMEOUT).await.unwrap();
    if let Some(count) = info.tag_count {
        assert_eq!(count as usize, tags.as_ref().map_or(0, Tags::len));
    }
    Properties { tags, ..info.properties }
}

pub async fn put_copy_and_upload(under: &Under<'_>, traits: Traits) {
    let all = full(traits);
    let (from, to) = (under.key("from"), under.key("to"));
    let none = Attributes::new();
    let source = won(under.store.put(&from, "<html>".into(), &none, &all, plain()).await);
    assert_eq!(seen(under, traits, "from").await, all);

    // A copy replaces everything but tags that are not known.
    let asked = Properties {
        headers: [(Header::ContentType, "text/plain".to_owned())].into(),
        tags: None,
        ..all.clone()
    };
    let _ = won(under.store.copy(&from, &source, &to, &none, &asked, plain()).await);
    let copied = seen(under, traits, "to").await;
    let headers = if traits.copies_headers { &asked.headers } else { &all.headers };
    assert_eq!((&copied.headers, &copied.tags), (headers, &all.tags));
    assert_eq!((&copied.class, &copied.encryption), (&all.class, &all.encryption));
    let other = Properties { tags: tags(&[("only", "")]).filter(|_| traits.tags), ..asked };
    let _ = won(under.store.copy(&from, &source, &to, &none, &other, plain()).await);
    assert_eq!(seen(under, traits, "to").await.tags, other.tags);

    let upload = under.store.create_upload(&to, &none, &all, TIMEOUT).await.unwrap();
    let part =
        under.store.upload_part(&to, &upload, FIRST, "<html>".into(), TIMEOUT).await.unwrap();
    let _ = won(under.store.complete_upload(&to, &upload, &[part], 6, plain()).await);
    assert_eq!(seen(under, traits, "to").await, all);

    // A PUT without any of it leaves none of it.
    under.write("to", "plain").await;
    let mut bare = seen(under, traits, "to").await;
    bare.headers.remove(&Header::ContentType);
    assert_eq!((bare.headers.len(), bare.encryption), (0, None));
    assert!(bare.tags.is_none_or(|tags| tags.is_empty()));
    assert!(bare.class.is_none_or(|class| class == STANDARD), "the usual class");
}

pub async fn foreign_names(under: &Under<'_>, traits: Traits) {
    let foreign: Attributes = [("my-key.2".to_owned(), "=?UTF-8?B?w6Q=?=".to_owned())].into();
    let key = under.key("k");
    let put = under.store.put(&key, "x".into(), &foreign, &Properties::default(), plain()).await;
    if traits.foreign_names {
        let _ = won(put);
        let info = under.store.head(&key, TIMEOUT).await.unwrap().unwrap();
        assert_eq!(info.attributes, foreign);
    } else {
        let error = failed(put);
        assert_eq!(error.kind, StoreErrorKind::Unsupported);
        assert!(error.message.contains("my-key.2"), "{error}");
    }
}

fn server_with_tags() -> (TestS3, Store) {
    let server = TestS3::start();
    server.put_foreign("k", "x", &[]);
    server.dress_foreign("k", |c| c.tags = [("team".to_owned(), "web".to_owned())].into());
    let store = store_of(&server);
    (server, store)
}

#[tokio::test]
async fn without_the_right_to_tags_only_tags_are_refused() {
    let (server, store) = server_with_tags();
    let (key, to) = (ObjectKey::new("k"), ObjectKey::new("to"));
    let none = Attributes::new();
    server.deny("s3:GetObjectTagging");
    let info = store.head(&key, TIMEOUT).await.unwrap().unwrap();
    assert_eq!(info.tag_count, None, "what S3 tells to nobody without the right");
    let error = store.get_tags(&key, TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::TagsDenied);
    assert!(error.message.contains("s3:GetObjectTagging"), "{error}");
    let copy = |properties: Properties| {
        let (store, none) = (&store, &none);
        let (key, to, version) = (&key, &to, &info.version);
        async move { store.copy(key, version, to, none, &properties, plain()).await }
    };
    // A copy of tags needs the right too; one without them does not.
    let error = failed(copy(Properties::default()).await);
    assert_eq!(error.kind, StoreErrorKind::TagsDenied, "{error}");
    let _ = won(copy(Properties { tags: Some(Tags::new()), ..Properties::default() }).await);
    server.allow_all();
    server.deny("s3:PutObjectTagging");
    let tagged = Properties { tags: tags(&[("a", "b")]), ..Properties::default() };
    let PutOutcome::Failed(error) = store.put(&to, "y".into(), &none, &tagged, plain()).await
    else {
        panic!("tags were taken without the right")
    };
    assert_eq!(error.kind, StoreErrorKind::TagsDenied);
    let _ = won(store.put(&to, "y".into(), &none, &Properties::default(), plain()).await);
    lost(store.copy(&to, &info.version, &key, &none, &Properties::default(), plain()).await);
}

#[tokio::test]
async fn stores_without_tags_have_none() {
    use super::support::s3server::{Action, Rule};
    let (server, store) = server_with_tags();
    server.fault(Rule::always(Some(Op::Tagging), "", Action::Status(501)));
    assert_eq!(store.get_tags(&ObjectKey::new("k"), TIMEOUT).await.unwrap(), None);
    let missing = store.get_tags(&ObjectKey::new("missing"), TIMEOUT).await;
    assert_eq!(missing.unwrap(), None);
    server.clear_faults();
    let missing = store.get_tags(&ObjectKey::new("missing"), TIMEOUT).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound);
}

/// What a volume asks for goes with everything, the engine's objects included; an object's own wins.
#[tokio::test]
async fn a_store_encrypts_everything_and_pays() {
    use object_store::ObjectStoreExt as _;
    let server = TestS3::start();
    server.set_requester_pays(true);
    let ask = Encryption { algorithm: "aws:kms".into(), key_id: Some("alias/team".into()) };
    let settings = StoreSettings {
        encryption: Some(ask),
        requester_pays: true,
        ..settings(&server.endpoint(), server.access_key(), server.secret_key())
    };
    let location = Location::parse(&format!("s3://{}", server.bucket())).unwrap();
    let store = Store::open(&location, &settings).unwrap();
    store.check(&KeyPrefix::new("")).await.unwrap();
    let none = Attributes::new();
    let put = async |key: &str, properties: &Properties| {
        let key = ObjectKey::new(key);
        let _ = won(store.put(&key, "x".into(), &none, properties, plain()).await);
    };
    put("new", &Properties::default()).await;
    let own = Encryption { algorithm: "AES256".into(), key_id: None };
    put("own", &Properties { encryption: Some(own), ..Properties::default() }).await;
    let engine = store.engine(&KeyPrefix::new("state/")).unwrap();
    engine.as_dyn().put(&"wal".into(), "x".into()).await.unwrap();
    assert_eq!(engine.as_dyn().get(&"wal".into()).await.unwrap().bytes().await.unwrap(), "x");
    let of = |key: &str| server.get(key).unwrap().carried.encryption;
    let kms = Some(("aws:kms".to_owned(), Some("alias/team".to_owned())));
    assert_eq!((of("new"), of("state/wal")), (kms.clone(), kms));
    assert_eq!(of("own"), Some(("AES256".to_owned(), None)));
    // Without the promise to pay nothing works, and the store says so.
    let error = store_of(&server).head(&ObjectKey::new("new"), TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
}

/// What a lifecycle rule moved to an archive says so, and new content never goes there.
#[tokio::test]
async fn archives_cannot_be_read_and_are_not_written() {
    let server = TestS3::start();
    let store = store_of(&server);
    server.put_foreign("k", "x", &[]);
    server.dress_foreign("k", |c| c.class = Some("GLACIER".into()));
    let key = ObjectKey::new("k");
    let info = store.head(&key, TIMEOUT).await.unwrap().unwrap();
    assert_eq!(info.properties.class.as_deref(), Some("GLACIER"));
    let error = store.get(&key, None, None, TIMEOUT).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unsupported);
    assert!(error.message.contains("archive") && error.message.contains("restore"), "{error}");
    let none = Attributes::new();
    let _ = won(store.put(&key, "new".into(), &none, &info.properties, plain()).await);
    assert_eq!(server.get("k").unwrap().carried.class, None);
    assert_eq!(store.get(&key, None, None, TIMEOUT).await.unwrap().data, "new");
}
