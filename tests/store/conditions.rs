//! Steps about conditions: each both ways.

use std::time::Duration;

use bytes::Bytes;
use s3vol::store::{Attributes, Condition, Properties, PutOutcome, Send};
use s3vol::types::Version;

use super::TIMEOUT;
use super::suite::{FIRST, Traits, Under, lost, unapplied, won};

fn when(condition: Condition) -> Send {
    Send { condition, ..Send::plain(TIMEOUT) }
}

pub async fn put_conditions(under: &Under<'_>, _: Traits) {
    let first = won(under.put("k", "one", Condition::Absent).await);
    lost(under.put("k", "two", Condition::Absent).await);
    assert_eq!(under.read("k").await.unwrap(), b"one");
    let second = won(under.put("k", "two", Condition::Is(first.clone())).await);
    lost(under.put("k", "three", Condition::Is(first)).await);
    assert_eq!(under.read("k").await.unwrap(), b"two");
    let _ = won(under.delete("k", Condition::None).await);
    lost(under.put("k", "three", Condition::Is(second)).await);
    assert!(!under.exists("k").await);
    let _ = won(under.put("k", "four", Condition::Absent).await);
}

pub async fn delete_conditions(under: &Under<'_>, traits: Traits) {
    if !traits.conditional_delete {
        return;
    }
    let old = under.write("k", "one").await;
    let new = under.write("k", "two").await;
    lost(under.delete("k", Condition::Is(old)).await);
    assert!(under.exists("k").await);
    let _ = won(under.delete("k", Condition::Is(new.clone())).await);
    assert!(!under.exists("k").await);
    lost(under.delete("k", Condition::Is(new)).await);
}

pub async fn copy_conditions(under: &Under<'_>, traits: Traits) {
    if !traits.conditional_copy {
        return;
    }
    let source = under.write("source", "content").await;
    let copy = async |to: &str, condition| {
        let none = Attributes::new();
        let (from, to) = (under.key("source"), under.key(to));
        under.store.copy(&from, &source, &to, &none, &Properties::default(), when(condition)).await
    };
    let made = won(copy("to", Condition::Absent).await);
    lost(copy("to", Condition::Absent).await);
    let other = under.write("to", "somebody else's").await;
    lost(copy("to", Condition::Is(made)).await);
    assert_eq!(under.read("to").await.unwrap(), b"somebody else's");
    let _ = won(copy("to", Condition::Is(other)).await);
    assert_eq!(under.read("to").await.unwrap(), b"content");
}

pub async fn complete_conditions(under: &Under<'_>, traits: Traits) {
    if !traits.complete_if_absent {
        return;
    }
    let key = under.key("k");
    let complete = async |condition| {
        let upload = under
            .store
            .create_upload(&key, &Attributes::new(), &Properties::default(), TIMEOUT)
            .await
            .unwrap();
        let body = Bytes::from_static(b"uploaded");
        let tag = under.store.upload_part(&key, &upload, FIRST, body, TIMEOUT).await.unwrap();
        let outcome = under.store.complete_upload(&key, &upload, &[tag], 8, when(condition)).await;
        under.store.abort_upload(&key, &upload, TIMEOUT).await.unwrap();
        outcome
    };
    let made = won(complete(Condition::Absent).await);
    let other = under.write("k", "somebody else's").await;
    lost(complete(Condition::Absent).await);
    assert_eq!(under.read("k").await.unwrap(), b"somebody else's");
    if traits.complete_if_match {
        lost(complete(Condition::Is(made)).await);
        assert_eq!(under.read("k").await.unwrap(), b"somebody else's");
        let _ = won(complete(Condition::Is(other.clone())).await);
        assert_eq!(under.read("k").await.unwrap(), b"uploaded");
        let _ = won(under.delete("k", Condition::None).await);
        lost(complete(Condition::Is(other)).await);
    }
}

/// What a listing says about an object is enough for a condition.
pub async fn listed_versions(under: &Under<'_>, traits: Traits) {
    let listed = async || under.list("", false, 10).await.0.remove(0).1;
    under.write("k", "one").await;
    let one = listed().await;
    let _ = won(under.put("k", "second", Condition::Is(one.clone())).await);
    lost(under.put("k", "third", Condition::Is(one.clone())).await);
    if traits.conditional_delete {
        lost(under.delete("k", Condition::Is(one)).await);
    }
    assert_eq!(under.read("k").await.unwrap(), b"second");
    let _ = won(under.delete("k", Condition::Is(listed().await)).await);
}

/// Sixteen at once; the bodies of those who won.
async fn race(
    under: &Under<'_>,
    traits: Traits,
    key: &str,
    condition: &Condition,
) -> Vec<(String, Version)> {
    let racers = (0..16).map(|n| async move {
        let body = format!("racer {n}");
        match under.put(key, &body, condition.clone()).await {
            PutOutcome::Won(version) => Some((body, version)),
            PutOutcome::Lost => None,
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error)
                if traits.vague_races && error.is_transient() =>
            {
                None
            }
            PutOutcome::Failed(error) | PutOutcome::Ambiguous(error) => panic!("{error}"),
        }
    });
    futures::future::join_all(racers).await.into_iter().flatten().collect()
}

pub async fn parallel_creates(under: &Under<'_>, traits: Traits) {
    if !traits.parallel_creates {
        return;
    }
    for round in 0..20 {
        let key = format!("race {round}");
        let winners = race(under, traits, &key, &Condition::Absent).await;
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(under.read(&key).await.unwrap(), winners[0].0.as_bytes());
    }
}

pub async fn parallel_replacements(under: &Under<'_>, traits: Traits) {
    if !traits.parallel_creates {
        return;
    }
    let mut version = under.write("k", "start").await;
    for _ in 0..20 {
        let winners = race(under, traits, "k", &Condition::Is(version.clone())).await;
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(under.read("k").await.unwrap(), winners[0].0.as_bytes());
        version = winners[0].1.clone();
        // Otherwise the next round's first racer may write these very bytes again, and on S3 an
        // ETag says no more than that.
        version =
            won(under.put("k", uuid::Uuid::new_v4().to_string(), Condition::Is(version)).await);
    }
}

pub async fn expiry(under: &Under<'_>, traits: Traits) {
    if !traits.expiry {
        return;
    }
    // Time enough: applied.
    let not_after = Some(under.now().await.plus(30_000));
    let send = Send { not_after, ..Send::plain(TIMEOUT) };
    let none = Attributes::new();
    let _ = won(under
        .store
        .put(&under.key("k"), "x".into(), &none, &Properties::default(), send)
        .await);
    // Past already: never applied, and never `Won` or `Lost`.
    let not_after = Some(under.now().await.plus(-5_000));
    let send = || Send { not_after, ..Send::plain(Duration::from_secs(5)) };
    unapplied(
        under.store.put(&under.key("k"), "y".into(), &none, &Properties::default(), send()).await,
    );
    unapplied(under.store.delete(&under.key("k"), send()).await);
    assert_eq!(under.read("k").await.unwrap(), b"x");
}
