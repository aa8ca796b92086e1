//! Steps about keys and listings.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use s3vol::store::Condition;

use super::suite::{Traits, Under, won};

const RAW: &[&str] = &[
    "a",
    "a/b",
    "a//b",
    "a/b/",
    "d/",
    "d//",
    "sp ace",
    " lead and trail ",
    "plus+plus",
    "per%cent",
    "per%25cent",
    "#1",
    "?x=y&z",
    "a;b,c=d:e@f!g$h'i(j)k*l",
    "back\\slash",
    "\"quoted\" <xml> & co",
    "ünï/cödé/☃/𝄞",
    "e\u{301} is not \u{e9}",
    "é",
    ".hidden",
    "..two",
    "tilde~",
];

pub async fn raw_keys(under: &Under<'_>, traits: Traits) {
    let body = |key: &'static str| match key.ends_with('/') && !traits.marker_bodies {
        true => &b""[..],
        false => key.as_bytes(),
    };
    for key in RAW {
        let _ = won(under.put(key, body(key), Condition::Absent).await);
    }
    for key in RAW {
        assert_eq!(under.read(key).await.unwrap(), body(key), "{key:?}");
    }
    let mut want: Vec<_> = RAW.iter().map(|k| (*k).to_owned()).collect();
    want.sort_unstable();
    assert_eq!(under.names().await, want);
    let (entries, prefixes) = under.list("a/", true, 1000).await;
    assert_eq!(entries.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["a/b"]);
    assert_eq!(prefixes, ["a//", "a/b/"]);
    for key in RAW {
        let _ = won(under.delete(key, Condition::None).await);
        assert!(!under.exists(key).await, "{key:?}");
        want.retain(|k| k != key);
        assert_eq!(under.names().await, want, "only {key:?} is gone");
    }
}

pub async fn long_keys(under: &Under<'_>, traits: Traits) {
    let own = under.prefix.as_str().len();
    let mut keys = vec![format!("{}/", "component-of-a-hundred-bytes-".repeat(3)).repeat(20)];
    keys[0].truncate(1024 - own - 1);
    keys[0].push('x');
    if traits.long_names {
        keys.push("x".repeat(1024 - own));
        keys.push("é".repeat((1024 - own) / 2));
    }
    for key in &keys {
        let _ = won(under.put(key, "x", Condition::Absent).await);
        assert_eq!(under.read(key).await.unwrap(), b"x");
    }
    keys.sort_unstable();
    assert_eq!(under.names().await, keys);
}

pub async fn prefixes_are_raw(under: &Under<'_>, _: Traits) {
    for key in ["foo", "foo/bar", "foobar", "fo", "g"] {
        under.write(key, "x").await;
    }
    let names = async |prefix, delimiter| {
        let (entries, prefixes) = under.list(prefix, delimiter, 1000).await;
        (entries.into_iter().map(|(k, _)| k).collect::<Vec<_>>(), prefixes)
    };
    let none: Vec<String> = Vec::new();
    let owned = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
    assert_eq!(names("foo", false).await, (owned(&["foo", "foo/bar", "foobar"]), none.clone()));
    assert_eq!(names("foo", true).await, (owned(&["foo", "foobar"]), owned(&["foo/"])));
    assert_eq!(names("foo/", true).await, (owned(&["foo/bar"]), none.clone()));
    assert_eq!(names("nothing", true).await, (none.clone(), none));
}

pub async fn many_keys(under: &Under<'_>, _: Traits) {
    // 100 directories of 20 and 500 beside them; more than two full pages.
    let directories = (0..2000).map(|n| format!("dir {:02}/{:02}", n / 20, n % 20));
    let beside = (0..500).map(|n| format!("file+{n:03}"));
    let want: BTreeSet<String> = directories.chain(beside).collect();
    futures::stream::iter(&want)
        .for_each_concurrent(32, async |key| {
            under.write(key, key).await;
        })
        .await;
    for max in [1000, 333] {
        let (entries, prefixes) = under.list("", false, max).await;
        assert!(entries.iter().map(|(key, _)| key).eq(&want), "{} keys", entries.len());
        assert!(entries.iter().all(|(key, version)| version.size == key.len() as u64));
        assert_eq!(prefixes, [""; 0]);
    }
    let files: Vec<_> = want.iter().filter(|key| key.starts_with("file")).collect();
    let folders: Vec<_> = (0..100).map(|n| format!("dir {n:02}/")).collect();
    for max in [1000, 7, 100] {
        let (entries, prefixes) = under.list("", true, max).await;
        assert!(entries.iter().map(|(key, _)| key).eq(files.iter().copied()), "{max}");
        assert_eq!(prefixes, folders, "{max}");
    }
    assert_eq!(under.list("dir 4", false, 1000).await.0.len(), 200);
}
