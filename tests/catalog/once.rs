//! What is used once: an identity, and what is written below it.

use std::future::ready;

use futures::stream::{self, StreamExt};

use super::at_once::meet;
use super::*;

/// Removed volumes go at once.
const NOW: (&str, &str) = ("S3VOL_GRACE", "0s");

/// The host that begins a volume does not learn that it was made, another one finds it and deletes it.
#[tokio::test]
async fn an_identity_is_not_used_again_after_its_volume_was_deleted() {
    for answered in ["volumes/web.json", "by-prefix"] {
        let (world, dirs) = (World::gateway(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
        let server = world.server();
        let here = catalog_with(&dirs[0], &world, &[NOW]).await;
        let there = catalog_with(&dirs[1], &world, &[NOW]).await;
        create(&here, "known", &[]).await.unwrap();
        server.fault(Rule::always(Some(Op::Put), answered, s3server::Action::ApplyThenDropReply));
        server.fault(Rule::always(Some(Op::Get), answered, s3server::Action::Status(503)));
        create(&here, "web", &[]).await.unwrap_err();
        server.clear_faults();
        let first = create(&there, "web", &[]).await.unwrap();
        there.remove(&name("web"), &EnginePurge::new()).await.unwrap();
        there.sweep(&EnginePurge::new()).await.unwrap();
        assert_eq!(server.keys(&format!("team/.s3vol/v/{}", first.uuid)), [""; 0]);
        // Whether the process goes on or another one does.
        let next = match answered {
            "by-prefix" => catalog_with(&dirs[0], &world, &[NOW]).await,
            _ => here,
        };
        let second = create(&next, "web", &[]).await.unwrap();
        assert_ne!(first.uuid, second.uuid, "{answered}");
        assert_eq!(formats(server).len(), 2);
    }
}

#[tokio::test]
async fn a_request_that_takes_away_what_was_begun_and_is_late_meets_nothing_else() {
    let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
    let server = world.server();
    let catalog = catalog(&dir, &world).await;
    create(&catalog, "known", &[]).await.unwrap();
    let inside = [("url", "s3://bkt/team/web/inside")];
    create(&catalog, "inside", &inside).await.unwrap();
    let in_the_way = server.objects("team/.s3vol/by-prefix/");
    catalog.remove(&name("inside"), &RetainAll).await.unwrap();
    server.delete_foreign("team/.s3vol/volumes/inside.json");
    catalog.refresh(&|_| true).await.unwrap();
    catalog.refresh(&|_| false).await.unwrap();
    // Refused for the entry alone. What was begun is deleted, and that waits.
    server.fault(Rule::new(Op::Delete, "format.json", 1, s3server::Action::Hold));
    let refused = create(&catalog, "web", &[]).await.unwrap_err().to_string();
    assert!(refused.contains("overlaps"), "{refused}");
    assert_eq!(server.held(), 1);
    let known = format!("{:?}", in_the_way.iter().map(|(key, _)| key).collect::<Vec<_>>());
    for (key, entry) in &in_the_way {
        if String::from_utf8_lossy(&entry.body).contains("inside") {
            server.delete_foreign(key);
        }
    }
    let made = create(&catalog, "web", &[]).await.unwrap();
    server.release();
    let format = format!("team/.s3vol/v/{}/format.json", made.uuid);
    for _ in 0..50 {
        assert!(server.get(&format).is_some(), "{known}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whichever request of the one waits until the other one has deleted the volume.
#[tokio::test]
async fn of_a_volume_that_two_hosts_delete_at_once_nothing_is_left() {
    drafts_go_at_once();
    let runs = (0..60).map(deleted_at_once);
    let met = stream::iter(runs).buffer_unordered(20).filter(|met| ready(*met)).count().await;
    assert!(met > 10, "{met}");
}

async fn deleted_at_once(at: u32) -> bool {
    let (world, dirs) = (World::gateway(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let server = world.server();
    let here = catalog_with(&dirs[0], &world, &[NOW]).await;
    let there = catalog_with(&dirs[1], &world, &[NOW]).await;
    create(&here, "web", &[]).await.unwrap();
    here.remove(&name("web"), &EnginePurge::new()).await.unwrap();
    there.refresh(&|_| true).await.unwrap();
    let rule = Rule::always(None, "", s3server::Action::Hold).after(at);
    server.fault(Rule { times: Some(1), ..rule });
    let purges = [EnginePurge::new(), EnginePurge::new()];
    let (first, second, met) = meet(server, here.sweep(&purges[0]), there.sweep(&purges[1])).await;
    first.and(second).unwrap_or_else(|error| panic!("request {at}: {error}"));
    // What one of them has announced by its lease is waited for.
    for catalog in [&here, &there] {
        catalog.refresh(&|_| true).await.unwrap();
        catalog.sweep(&EnginePurge::new()).await.unwrap();
    }
    let left = server.keys("team/.s3vol/v/");
    let named = server.keys("team/.s3vol/volumes/");
    match named.is_empty() {
        true => assert_eq!(left, [""; 0], "request {at}"),
        // One that was cut short holds the volume for a minute.
        false => assert!(!left.is_empty(), "request {at}"),
    }
    met
}

/// The definition of one is there when its neighbours cannot be looked for, and so is that of another one.
#[tokio::test]
async fn a_volume_whose_neighbours_were_not_looked_for_is_not_confirmed_unseen() {
    let (outer, inner) = ([("url", "s3://bkt/team/place")], [("url", "s3://bkt/team/place/in")]);
    let mut met = 0;
    for after in 0..4 {
        let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
        let server = world.server();
        let catalog = catalog(&dir, &world).await;
        let before = server.keys("");
        create(&catalog, "two", &inner).await.unwrap();
        let key = "team/.s3vol/volumes/two.json";
        let two = server.get(key).unwrap();
        for key in server.keys("").into_iter().filter(|key| !before.contains(key)) {
            server.delete_foreign(&key);
        }
        catalog.refresh(&|_| false).await.unwrap();
        let away = Rule::always(Some(Op::List), "volumes", s3server::Action::Status(503));
        server.fault(away.after(after));
        let made = create(&catalog, "one", &outer).await;
        server.clear_faults();
        if made.is_ok() || server.get("team/.s3vol/volumes/one.json").is_none() {
            continue;
        }
        met += 1;
        server.restore(key, two);
        for _ in 0..2 {
            let error = create(&catalog, "one", &outer).await.unwrap_err().to_string();
            assert!(error.contains("overlaps"), "{error}");
            // Nor is that forgotten when what was left is looked after.
            drafts_go_at_once();
            catalog.sweep(&RetainAll).await.unwrap();
        }
        server.delete_foreign(key);
        catalog.refresh(&|_| false).await.unwrap();
        create(&catalog, "one", &outer).await.unwrap();
    }
    assert!(met > 0);
}

/// Its own host does not know the catalog with the name.
#[tokio::test]
async fn a_state_that_is_named_from_another_home_is_not_taken_away() {
    drafts_go_at_once();
    let url = [("url", "s3://bkt/team/place")];
    let inner = [("S3VOL_URL", "s3://bkt/team/inner")];
    // Whichever of the two homes is the one that the place's state lies in.
    for there_is_inner in [true, false] {
        let (world, dirs) = (World::gateway(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
        let server = world.server();
        let outer: [(&str, &str); 0] = [];
        let (more, other): (&[_], &[_]) = match there_is_inner {
            true => (&outer, &inner),
            false => (&inner, &outer),
        };
        let here = catalog_with(&dirs[0], &world, more).await;
        let there = catalog_with(&dirs[1], &world, other).await;
        let state = [("state_url", "s3://bkt/team")];
        let place = [&url[..], &state[..]].concat();
        create(&here, "known", &[]).await.unwrap();
        let lost = Rule::always(Some(Op::Put), "volumes/web", s3server::Action::DropBeforeApply);
        server.fault(lost);
        create(&here, "web", &place).await.unwrap_err();
        server.clear_faults();
        let made = create(&there, "web", &place).await.unwrap();
        here.sweep(&RetainAll).await.unwrap();
        let format = format!("team/.s3vol/v/{}/format.json", made.uuid);
        assert!(server.get(&format).is_some(), "{there_is_inner}: {:?}", server.keys(""));
    }
}
