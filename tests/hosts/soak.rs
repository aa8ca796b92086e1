//! Long hours: programs of others on a volume of two hosts, under which workers die and which moves.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::curve::Curve;
use crate::ledger::Ledger;
use crate::programs::{ALL, shell};
use crate::site::{Host, Site};
use crate::support::s3server::TestS3;

/// Seconds that the soak runs.
const SECONDS: &str = "S3VOL_SOAK_SECONDS";
const TWO_HOURS: u64 = 7200;
const MOVE_EVERY: Duration = Duration::from_secs(300);
const KILL_EVERY: Duration = Duration::from_secs(60);
/// How long the engine keeps what was replaced, and in a run of less than an hour.
const GARBAGE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Every path with its kind, mode, owner, size, time of change and what a link says; and the hashes of all files
/// as `sha256sum` writes them.
fn manifests(place: &Path) -> [String; 2] {
    let names = r"find . -mindepth 1 \( -type d -printf '%y %m %U:%G %T@ %P\n' \) -o \
        -printf '%y %m %U:%G %n %s %T@ %l %P\n' | sort";
    let hashes = r"find . -type f -printf '%P\0' | sort -z | xargs -0 -r sha256sum";
    [names, hashes].map(|script| shell(place, script, &[]).expect("a manifest"))
}

/// The programs on one host, until `until`, with kills.
fn leg(
    (host, name): (&mut Host, &'static str),
    server: &TestS3,
    ledger: &mut Ledger,
    outside: &Path,
    curve: &mut Curve,
    [began, until]: [Instant; 2],
    kill_every: Duration,
) {
    let (place, end) = (host.place(), AtomicBool::new(false));
    let place = &place;
    std::thread::scope(|scope| {
        let programs = ALL.iter().map(|program| scope.spawn(|| program.run(place, outside, &end)));
        let mut running: Vec<_> = programs.collect();
        running.push(scope.spawn(|| ledger.run(place, &end).expect("an error of the ledger")));
        let mut next = Instant::now() + kill_every;
        while Instant::now() < until && running.iter().all(|thread| !thread.is_finished()) {
            std::thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())));
            let steps = ALL.iter().map(|program| program.steps()).sum();
            curve.look(began.elapsed(), name, host, server, steps);
            server.clear_log();
            if Instant::now() > next {
                host.plugin().kill("worker");
                next += kill_every;
            }
        }
        end.store(true, Ordering::SeqCst);
    });
}

#[test]
#[ignore = "make soak"]
fn soak_two_hours() {
    let seconds =
        std::env::var(SECONDS).ok().map_or(TWO_HOURS, |text| text.parse().expect(SECONDS));
    let whole = Duration::from_secs(seconds);
    // A shorter one has as many moves and kills, down to what can be done at all.
    let move_every = MOVE_EVERY.min(whole / 4);
    let kill_every = KILL_EVERY.min(move_every / 3);
    let mut site = Site::bare();
    // For a part of the run that comes to an end in each half.
    let kept = GARBAGE.min(whole / 12);
    for host in [&mut site.a, &mut site.b] {
        host.env(s3vol::fault::GARBAGE_AGE, &kept.as_millis().to_string());
    }
    site.start(&[]);
    let outside = tempfile::tempdir().unwrap();
    let mut curve = Curve::default();
    let began = Instant::now();
    let mut left: Option<[String; 2]> = None;
    let mut moves = 0;
    while began.elapsed() < whole {
        let (host, name) = match moves % 2 {
            0 => (&mut site.a, "a"),
            _ => (&mut site.b, "b"),
        };
        let (refused, took) = host.mount_when_free(Duration::from_secs(60));
        println!("{:?}: mounted on {name} in {took:?} {refused:?}", began.elapsed());
        let place = host.place();
        if let Some(left) = &left {
            compare(left, &manifests(&place));
        }
        ALL.iter().for_each(|program| program.check(&place, outside.path()));
        site.ledger.check(&place);
        let until = (Instant::now() + move_every).min(began + whole);
        let span = [began, until];
        leg(
            (host, name),
            &site.server,
            &mut site.ledger,
            outside.path(),
            &mut curve,
            span,
            kill_every,
        );
        ALL.iter().for_each(|program| program.check(&place, outside.path()));
        left = Some(manifests(&place));
        host.unmount();
        curve.look_into_state(began.elapsed(), &site.server);
        moves += 1;
    }
    println!("{}", curve.table(KILL_EVERY));
    println!("\n{}", curve.folders());
    let steps: Vec<_> = ALL.iter().map(|program| (program.name, program.steps())).collect();
    println!(
        "\n{moves} legs; steps {steps:?}; {} acknowledged fsyncs of the ledger",
        site.ledger.turns()
    );
    let left = left.expect("one leg at least");
    let hashes = outside.path().join("hashes");
    std::fs::write(&hashes, &left[1]).unwrap();
    site.whole_and(|place| {
        compare(&left, &manifests(place));
        ALL.iter().for_each(|program| program.check(place, outside.path()));
    });
    let said = site.s3vol(&["verify", "--manifest", hashes.to_str().unwrap(), &site.url()]);
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(site.recovered().is_empty());
    match curve.judge_state(kept) {
        Ok(bound) => println!("{bound}"),
        Err(more) => panic!("{more}"),
    }
    // The volume still fills while it is on its first host.
    match curve.judge(move_every) {
        Ok(halves) => println!("{halves}"),
        Err(grown) => panic!("{grown}"),
    }
}

fn compare(left: &[String; 2], found: &[String; 2]) {
    if left == found {
        return;
    }
    for (left, found) in left.iter().zip(found) {
        let lost = left.lines().filter(|line| !found.lines().any(|other| other == *line)).take(5);
        let new = found.lines().filter(|line| !left.lines().any(|other| other == *line)).take(5);
        let (lost, new): (Vec<_>, Vec<_>) = (lost.collect(), new.collect());
        assert!(left == found, "what was left, and is not there: {lost:#?}; and what is: {new:#?}");
    }
}
