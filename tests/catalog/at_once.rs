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
    let (first, second, met) =
        meet(server, create(&one, "one", &url), create(&two, "two", &other)).await;
    if !met {
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

/// Whichever request of the one waits until the other one is done.
#[tokio::test]
async fn a_state_that_is_named_while_it_is_taken_away_is_whole_or_has_no_name() {
    drafts_go_at_once();
    for naming_waits in [false, true] {
        let runs = (0..30).map(|at| named_while_it_goes(naming_waits, at));
        let met = stream::iter(runs).buffer_unordered(30).filter(|met| ready(*met)).count().await;
        assert!(met > 5, "{met}");
    }
}

/// One host takes away what a creation left, another one finds it and names it, and this request of one of them waits
/// for the other; whether there was such a request.
async fn named_while_it_goes(naming_waits: bool, at: u32) -> bool {
    let (world, dirs) = (World::gateway(), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let server = world.server();
    let (here, there) = (catalog(&dirs[0], &world).await, catalog(&dirs[1], &world).await);
    create(&here, "known", &[]).await.unwrap();
    let deaf = Rule::always(Some(Op::List), "by-prefix", s3server::Action::Status(403));
    server.fault(deaf.after(2));
    create(&here, "web", &[]).await.unwrap_err();
    server.clear_faults();
    let rule = Rule::always(None, "", s3server::Action::Hold).after(at);
    server.fault(Rule { times: Some(1), ..rule });
    let (goes, named) =
        (here.sweep(&RetainAll), async { create(&there, "web", &[]).await.map(|made| made.uuid) });
    let (made, met) = match naming_waits {
        false => {
            let (_, made, met) = meet(server, goes, named).await;
            (made, met)
        }
        true => {
            let (made, _, met) = meet(server, named, goes).await;
            (made, met)
        }
    };
    let what = format!("request {at}, naming waits: {naming_waits}");
    assert_eq!(made.is_ok(), server.get("team/.s3vol/volumes/web.json").is_some(), "{what}");
    let id = match made {
        Ok(id) => id,
        Err(_) => {
            here.sweep(&RetainAll).await.unwrap();
            create(&there, "web", &[]).await.unwrap().uuid
        }
    };
    let format = server.get(&format!("team/.s3vol/v/{id}/format.json"));
    let format = format.unwrap_or_else(|| panic!("{what}: it has no state"));
    let says = |body: &[u8], text: &str| String::from_utf8_lossy(body).contains(text);
    assert!(!says(&format.body, "deleting"), "{what}: its state is closed");
    let entries = server.objects("team/.s3vol/by-prefix/");
    let leads = entries.iter().any(|(_, entry)| says(&entry.body, &id.0.to_string()));
    assert!(leads, "{what}: nothing leads there");
    met
}

/// `second` runs while a request of `first` is held, or after it; whether it was held.
pub(super) async fn meet<A, B>(
    server: &TestS3,
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B, bool) {
    let ended = AtomicBool::new(false);
    let first = async {
        let done = first.await;
        ended.store(true, Ordering::SeqCst);
        done
    };
    let second = async {
        while server.held() == 0 && !ended.load(Ordering::SeqCst) {
            tokio::time::sleep(LOOK).await;
        }
        let met = server.held() > 0;
        // It is not for a request of the second one.
        server.clear_faults();
        let done = second.await;
        server.release();
        (done, met)
    };
    let (first, (second, met)) = tokio::join!(first, second);
    (first, second, met)
}
