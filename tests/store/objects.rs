//! Steps about single objects.

use bytes::Bytes;

use s3vol::store::{
    Attributes, Condition, Doomed, Groups, Part, Properties, PutOutcome, Send, StoreErrorKind,
    delete_unique,
};
use s3vol::types::StoreTime;

use super::TIMEOUT;
use super::suite::{FIRST, Traits, Under, ambiguous, lost, won};

fn some_attributes() -> Attributes {
    [("mode", "33188"), ("mtime", "1700000000.000000001"), ("s3volput", "00ff")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

pub async fn put_get_head(under: &Under<'_>, _: Traits) {
    let key = under.key("k");
    let sent = won(under
        .store
        .put(&key, "hello".into(), &some_attributes(), &Properties::default(), Send::plain(TIMEOUT))
        .await);
    assert_eq!(sent.size, 5);
    assert!(!sent.etag.is_empty() && !sent.etag.contains('"'), "{sent:?}");
    let head = under.store.head(&key, TIMEOUT).await.unwrap().unwrap();
    assert!(sent.same(&head.version), "{sent:?} {head:?}");
    assert!(head.version.modified.is_some());
    assert_eq!(head.attributes, some_attributes());
    let got = under.store.get(&key, None, Some(&sent), TIMEOUT).await.unwrap();
    assert_eq!(got.data, "hello");
    assert!(got.info.version.same(&head.version), "{got:?} {head:?}");
    assert_eq!(got.info.attributes, some_attributes());
    let (listed, _) = under.list("", false, 1000).await;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].1.same(&head.version), "{listed:?} {head:?}");
}

pub async fn empty_objects(under: &Under<'_>, _: Traits) {
    let version = under.write("empty", "").await;
    assert_eq!(version.size, 0);
    assert_eq!(under.read("empty").await.unwrap(), b"");
    let key = under.key("empty");
    let got = under.store.get(&key, Some(0..10), Some(&version), TIMEOUT).await.unwrap();
    assert_eq!(got.data, "");
    assert!(got.info.version.same(&version));
}

pub async fn ranges(under: &Under<'_>, _: Traits) {
    let body: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
    let version = under.write("k", &body).await;
    let key = under.key("k");
    for (range, want) in [
        (0..1, 0..1),
        (0..1000, 0..1000),
        (500..600, 500..600),
        (999..1000, 999..1000),
        (990..5000, 990..1000),
        (1000..1001, 1000..1000),
        (5000..6000, 1000..1000),
    ] {
        for expect in [None, Some(&version)] {
            let got = under.store.get(&key, Some(range.clone()), expect, TIMEOUT).await.unwrap();
            assert_eq!(got.data, body[want.clone()], "{range:?}");
            assert_eq!(got.info.version.size, 1000, "the size is the object's, not the range's");
        }
    }
}

pub async fn missing_keys(under: &Under<'_>, _: Traits) {
    let key = under.key("nothing");
    assert!(under.store.head(&key, TIMEOUT).await.unwrap().is_none());
    for range in [None, Some(0..5)] {
        let error = under.store.get(&key, range, None, TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    }
    let _ = won(under.delete("nothing", Condition::None).await);
}

pub async fn changed_while_reading(under: &Under<'_>, _: Traits) {
    let old = under.write("k", "old content").await;
    let new = under.write("k", "new content").await;
    assert_ne!(old.etag, new.etag);
    let key = under.key("k");
    for range in [None, Some(0..3), Some(5..500), Some(100..200)] {
        let error = under.store.get(&key, range.clone(), Some(&old), TIMEOUT).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Changed, "{range:?}: {error}");
        under.store.get(&key, range, Some(&new), TIMEOUT).await.unwrap();
    }
    let _ = won(under.delete("k", Condition::None).await);
    // Azure judges the condition before it looks for the key.
    let error = under.store.get(&key, None, Some(&new), TIMEOUT).await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Changed), "{error}");
}

pub async fn attributes(under: &Under<'_>, _: Traits) {
    let key = under.key("k");
    let mut attributes = some_attributes();
    // Printable ASCII, blanks inside, and as much as one may send.
    attributes.insert("odd".into(), "a  b=c;d,e\"f\"%20+~/\\".into());
    attributes.insert("long".into(), "v".repeat(1200));
    let _ = won(under
        .store
        .put(&key, "x".into(), &attributes, &Properties::default(), Send::plain(TIMEOUT))
        .await);
    let info = under.store.head(&key, TIMEOUT).await.unwrap().unwrap();
    assert_eq!(info.attributes, attributes);
    under.write("k", "y").await;
    let info = under.store.head(&key, TIMEOUT).await.unwrap().unwrap();
    assert_eq!(info.attributes, Attributes::new(), "a PUT replaces all of them");
}

pub async fn large_bodies(under: &Under<'_>, _: Traits) {
    let body: Vec<u8> = (0..24u32 << 20).map(|n| (n >> 8) as u8 ^ n as u8).collect();
    let version = under.write("big", &body).await;
    assert_eq!(version.size, body.len() as u64);
    assert!(under.read("big").await.unwrap() == body);
    let range = (20 << 20) - 3..(20 << 20) + 5;
    let key = under.key("big");
    let got = under.store.get(&key, Some(range), Some(&version), TIMEOUT).await.unwrap();
    assert_eq!(got.data, body[(20 << 20) - 3..(20 << 20) + 5]);
}

pub async fn groups(under: &Under<'_>, traits: Traits) {
    let scratch = under.prefix.join("scratch");
    assert_eq!(under.store.groups(&scratch).await, traits.groups);
    assert_eq!(under.store.known_groups(), Some(traits.groups));
    let doomed = |name: &str, condition| Doomed { key: under.key(name), condition };
    // Names that are written otherwise in XML, and some that XML cannot hold.
    let names = ["a b", "<&>\"'", "dir/é", "+%20", "]]>", " blank ", "tab\t", "\u{1}"];
    if traits.groups != Groups::No {
        for name in names {
            under.write(name, "content").await;
        }
        under.write("blank", "stays").await;
        let mut group: Vec<Doomed> =
            names.iter().map(|name| doomed(name, Condition::None)).collect();
        group.push(doomed("missing", Condition::None));
        let expires = Some(under.now().await.plus(60_000));
        let outcomes = under.store.delete_many(&group, expires, TIMEOUT).await.unwrap();
        assert_eq!(outcomes.len(), group.len());
        assert!(outcomes.iter().all(|one| matches!(one, PutOutcome::Won(_))), "{outcomes:?}");
        assert_eq!(under.names().await, ["blank"]);
        let late = Some(StoreTime(under.now().await.0 - 60_000));
        let blank = [doomed("blank", Condition::None)];
        let refused = under.store.delete_many(&blank, late, TIMEOUT).await.unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Timeout);
        assert!(under.exists("blank").await);
    }
    if traits.groups == Groups::Conditional {
        let [old, new] = [under.write("one", "a").await, under.write("one", "bb").await];
        let other = under.write("other", "x").await;
        let group =
            [doomed("one", Condition::Is(old.clone())), doomed("other", Condition::Is(other))];
        let outcomes = under.store.delete_many(&group, None, TIMEOUT).await.unwrap();
        assert!(matches!(outcomes[..], [PutOutcome::Lost, PutOutcome::Won(_)]), "{outcomes:?}");
        assert_eq!(under.names().await, ["blank", "one"]);
        let group = [doomed("one", Condition::Is(new)), doomed("gone", Condition::Is(old))];
        let outcomes = under.store.delete_many(&group, None, TIMEOUT).await.unwrap();
        assert!(matches!(outcomes[..], [PutOutcome::Won(_), PutOutcome::Lost]), "{outcomes:?}");
    }
    // Names that are never used again go as the store can.
    let names: Vec<String> = (0..20).map(|number| format!("unique-{number}")).collect();
    for name in &names {
        under.write(name, "content").await;
    }
    let keys: Vec<_> = names.iter().map(|name| under.key(name)).collect();
    let outcomes = delete_unique(under.store.backend().as_ref(), &keys, &scratch, TIMEOUT).await;
    assert!(outcomes.iter().all(|one| matches!(one, PutOutcome::Won(_))), "{outcomes:?}");
    assert!(under.names().await.iter().all(|name| !name.starts_with("unique")));
}

pub async fn copies(under: &Under<'_>, traits: Traits) {
    let source = if traits.copies_any_name { "a b/+ö%" } else { "plain" };
    let (name, from, to) = (source, under.key(source), under.key("copy of é"));
    let plain = || Send::plain(TIMEOUT);
    let source = won(under
        .store
        .put(&from, "content".into(), &some_attributes(), &Properties::default(), plain())
        .await);
    let attributes: Attributes = [("uid".to_owned(), "7".to_owned())].into();
    let copy = won(under
        .store
        .copy(&from, &source, &to, &attributes, &Properties::default(), plain())
        .await);
    let info = under.store.head(&to, TIMEOUT).await.unwrap().unwrap();
    assert!(copy.same(&info.version), "{copy:?} {info:?}");
    assert_eq!((info.version.size, &info.attributes), (7, &attributes));
    assert_eq!(under.read("copy of é").await.unwrap(), b"content");
    // Onto itself: only the attributes change.
    let _ = won(under
        .store
        .copy(&from, &source, &from, &attributes, &Properties::default(), plain())
        .await);
    let info = under.store.head(&from, TIMEOUT).await.unwrap().unwrap();
    assert_eq!((info.version.size, &info.attributes), (7, &attributes));
    // The source must still be what the caller knows.
    let stale = source;
    under.write(name, "changed").await;
    if traits.conditional_source {
        lost(
            under
                .store
                .copy(&from, &stale, &to, &attributes, &Properties::default(), plain())
                .await,
        );
        assert_eq!(under.read("copy of é").await.unwrap(), b"content");
    }
    let _ = won(under.delete(name, Condition::None).await);
    lost(under.store.copy(&from, &stale, &to, &attributes, &Properties::default(), plain()).await);
}

pub async fn multipart(under: &Under<'_>, traits: Traits) {
    let key = under.key("m ü");
    let (first, last) = (Bytes::from(vec![1u8; 5 << 20]), Bytes::from_static(b"the end"));
    let size = (first.len() + last.len()) as u64;
    let upload = under
        .store
        .create_upload(&key, &some_attributes(), &Properties::default(), TIMEOUT)
        .await
        .unwrap();
    // Out of order, and one part sent twice: the later one counts.
    let lost = Bytes::from_static(b"not this");
    let second = Part { number: 2, offset: first.len() as u64 };
    under.store.upload_part(&key, &upload, second, lost, TIMEOUT).await.unwrap();
    let two = under.store.upload_part(&key, &upload, second, last.clone(), TIMEOUT).await.unwrap();
    let one = under.store.upload_part(&key, &upload, FIRST, first.clone(), TIMEOUT).await.unwrap();
    assert!(!under.exists("m ü").await, "nothing is visible before the completion");
    let parts = [one, two];
    let plain = || Send::plain(TIMEOUT);
    let made = won(under.store.complete_upload(&key, &upload, &parts, size, plain()).await);
    let info = under.store.head(&key, TIMEOUT).await.unwrap().unwrap();
    assert!(made.same(&info.version), "{made:?} {info:?}");
    assert_eq!((info.version.size, info.attributes), (size, some_attributes()));
    let got = under.read("m ü").await.unwrap();
    assert!(got[..first.len()] == first && got[first.len()..] == last);
    // Whether it was this request that made the object cannot be told any more.
    if traits.uploads_end {
        ambiguous(under.store.complete_upload(&key, &upload, &parts, size, plain()).await);
    }

    let upload = under
        .store
        .create_upload(&key, &Attributes::new(), &Properties::default(), TIMEOUT)
        .await
        .unwrap();
    let tag = under.store.upload_part(&key, &upload, FIRST, last, TIMEOUT).await.unwrap();
    under.store.abort_upload(&key, &upload, TIMEOUT).await.unwrap();
    under.store.abort_upload(&key, &upload, TIMEOUT).await.expect("a missing upload is fine");
    if traits.aborts {
        ambiguous(under.store.complete_upload(&key, &upload, &[tag], 7, plain()).await);
        assert_eq!(under.read("m ü").await.unwrap().len() as u64, size, "still the first upload");
    }
}

pub async fn requests_are_counted(under: &Under<'_>, _: Traits) {
    under.now().await;
    let before = under.store.requests();
    let version = under.write("k", "12345").await;
    let _ = under.read("k").await.unwrap();
    assert!(under.exists("k").await);
    under.list("", false, 10).await;
    let send = Send::plain(TIMEOUT);
    // Azure would ask for tags that are not known.
    let untagged = Properties { tags: Some(Default::default()), ..Properties::default() };
    let _ = won(under
        .store
        .copy(&under.key("k"), &version, &under.key("c"), &Attributes::new(), &untagged, send)
        .await);
    let _ = won(under.delete("k", Condition::None).await);
    let after = under.store.requests();
    assert_eq!(after.put - before.put, 1);
    assert_eq!(after.get - before.get, 1);
    assert_eq!(after.head - before.head, 1);
    assert_eq!(after.list - before.list, 1);
    assert_eq!(after.copy - before.copy, 1);
    assert_eq!(after.delete - before.delete, 1);
    assert_eq!(after.bytes_up - before.bytes_up, 5);
    assert!(after.bytes_down - before.bytes_down >= 5);
}

pub async fn clock(under: &Under<'_>, _: Traits) {
    let host = jiff::Timestamp::now().as_millisecond();
    let StoreTime(store) = under.now().await;
    assert!((store - host).abs() < 5_000, "this store's clock is the host's: {store} {host}");
}
