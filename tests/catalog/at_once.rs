//! Volumes that are made at the same moment.

use std::future::ready;

use futures::stream::{self, StreamExt};

use super::*;

/// How often it is looked whether a request is held.
const LOOK: Duration = Duration::from_millis(1);

/// Whichever request of one creation the other one comes before.
#[tokio::test]
async fn of_two_volumes_that_are_made_for_one_place_at_once_no_two_stay() {
    // On one host alone, and on two.
    let cases = [(1, "place"), (2, "place"), (2, "place/inside")];
    let each = cases.map(|(hosts, other)| async move {
        let runs = (0..40).map(|at| made_at_once(hosts, other, at));
        let met = stream::iter(runs).buffer_unordered(40).filter(|met| ready(*met)).count().await;
        assert!(met > 8, "{met}");
    });
    // Most of the time is for requests that are held until somebody gives up.
    futures::future::join_all(each).await;
}

/// Two volumes of which the second one is made while the request of this number of the first one is on its way; whether
/// there was such a request.
async fn made_at_once(hosts: u32, other: &str, at: u32) -> bool {
    let url = [("url", "s3://bkt/team/place")];
    let other = [("url", &*format!("s3://bkt/team/{other}"))];
    let (world, dirs) = (World::gateway(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let server = world.server();
    let one = Arc::new(catalog(&dirs[0], &world).await);
    create(&one, "known", &[]).await.unwrap();
    let two = match hosts {
        1 => Arc::clone(&one),
        _ => Arc::new(catalog(&dirs[1], &world).await),
    };
    let rule = Rule::always(None, "", s3server::Action::Hold).after(at);
    server.fault(Rule { times: Some(1), ..rule });
    let ended = AtomicBool::new(false);
    let first = async {
        let made = create(&one, "one", &url).await;
        ended.store(true, Ordering::SeqCst);
        made
    };
    let second = async {
        while server.held() == 0 && !ended.load(Ordering::SeqCst) {
            tokio::time::sleep(LOOK).await;
        }
        let made = create(&two, "two", &other).await;
        server.release();
        made
    };
    let (first, second) = tokio::join!(first, second);
    if server.faults_left() > 0 {
        return false;
    }
    assert!(first.is_err() || second.is_err(), "request {at} of {hosts}: both stay");
    for (made, volume) in [(first, "one"), (second, "two")] {
        let there = server.keys("team/.s3vol/volumes/").iter().any(|k| k.contains(volume));
        assert_eq!(made.is_ok(), there, "request {at} of {hosts}: {volume}: {made:?}");
    }
    // Nothing is left that keeps one from being made.
    if server.keys("team/.s3vol/volumes/").len() == 1 {
        create(&two, "two", &other).await.unwrap();
    }
    true
}

/// Another host may have found it, and use it.
#[tokio::test]
async fn a_definition_whose_neighbours_cannot_be_looked_for_stays() {
    let url = [("url", "s3://bkt/team/place")];
    let mut stayed = 0;
    for after in 0..3 {
        let (world, dir) = (World::gateway(), tempfile::tempdir().unwrap());
        let server = world.server();
        let catalog = catalog(&dir, &world).await;
        create(&catalog, "known", &[]).await.unwrap();
        let away = Rule::always(Some(Op::List), "volumes", s3server::Action::Status(503));
        server.fault(away.after(after));
        let made = create(&catalog, "one", &url).await;
        let there = server.keys("team/.s3vol/volumes/").iter().any(|key| key.contains("one"));
        stayed += u32::from(made.is_err() && there);
        server.clear_faults();
        create(&catalog, "one", &url).await.unwrap();
    }
    assert!(stayed > 0);
}
