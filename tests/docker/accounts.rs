//! Credentials by name in the managed plugin: files below its folder, and what its settings hold of them.

use std::time::Duration;

use crate::support::accounts::{
    FIRST, ONE, ONE_LATER, SECOND, TWO, accounts, askers, lines, profile, put, secret, used,
};
use crate::support::dockerd::PLUGIN;
use crate::support::wait_for;
use crate::{engine_on, listed, turn};

/// Writes and syncs a file and reads it, again and again; what fails is in `/errors`.
const USER: &str = "i=0; while [ ! -e /stop ]; do \
  { echo $i >/d/busy && sync -f /d/busy && [ \"$(cat /d/busy)\" = $i ]; } || echo $i >>/errors; \
  i=$((i+1)); echo $i >/count; sleep 0.05; done; sleep 600";

#[test]
fn two_volumes_of_two_accounts_live_in_the_managed_plugin_and_follow_their_files() {
    let _turn = turn();
    let (engine, server) = engine_on(accounts());
    let files = engine.plugin_dir().join("files");
    put(&files, "one", &lines(ONE));
    put(&files, "two", &profile(TWO));
    let url = |bucket: &str, name: &str| format!("url=s3://{bucket}/{name}");
    let create = |name: &str, bucket: &str, credentials: &str| -> Vec<String> {
        let credentials = format!("credentials={credentials}");
        let url = url(bucket, name);
        let args = [
            "volume",
            "create",
            "-d",
            PLUGIN,
            "-o",
            &url,
            "-o",
            &credentials,
            "-o",
            "commit=1s",
            name,
        ];
        args.map(str::to_owned).into()
    };
    let run = |args: &[String]| engine.docker(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let fails =
        |args: &[String]| engine.docker_fails(&args.iter().map(String::as_str).collect::<Vec<_>>());

    // Neither account is of use for the other, and docker says why.
    let said = fails(&create("wrong", FIRST, "two"));
    assert!(said.contains("access denied") && said.contains("the credentials two "), "{said}");
    assert!(said.contains("s3:PutObject"), "{said}");
    let said = fails(&create("wrong", FIRST, "nobody"));
    assert!(said.contains("has no credentials nobody") && said.contains("/s3vol/files/"), "{said}");
    assert!(!listed(&engine, "wrong"));

    run(&create("first", FIRST, "one"));
    run(&create("second", SECOND, "two"));
    server.clear_log();
    engine.start_container("box", "first", USER);
    engine.run("second", "echo of two >/d/file");
    assert_eq!(server.body_in(SECOND, "second/file").unwrap(), "of two\n");
    let count = || -> u64 {
        let count = || engine.exec("box", "cat /count 2>/dev/null || :").trim().parse().ok();
        wait_for("the container's count", Duration::from_secs(30), count)
    };
    let goes_on = || {
        let before = count();
        wait_for("more", Duration::from_secs(30), || (count() > before + 3).then_some(()));
        assert_eq!(engine.exec("box", "cat /errors 2>/dev/null || :"), "");
    };
    goes_on();
    assert_eq!(
        (askers(&server, FIRST), askers(&server, SECOND)),
        (vec![ONE.into()], vec![TWO.into()])
    );

    // Another key takes its place while the container runs; the one before ends at once.
    server.clear_log();
    put(&files, "one", &lines(ONE_LATER));
    server.only(FIRST, &[ONE_LATER]);
    used(&server, FIRST, ONE_LATER);
    goes_on();
    let shows = |text: &str| {
        wait_for(text, Duration::from_secs(30), || {
            let shown =
                engine.docker(&["volume", "inspect", "-f", "{{.Status.credentials}}", "first"]);
            (shown.starts_with("one (") && shown.contains(text)).then_some(())
        });
    };
    shows("changed once");
    // A file that is gone changes nothing for who runs, and is said.
    std::fs::remove_file(files.join("credentials/one")).unwrap();
    shows("it is gone");
    goes_on();
    put(&files, "one", &lines(ONE_LATER));
    engine.exec("box", ": >/stop");
    engine.docker(&["rm", "-f", "box"]);
    server.clear_log();
    assert_ne!(engine.run("first", "cat /d/busy"), "");
    assert_eq!(askers(&server, FIRST), [ONE_LATER]);

    // No secret of them is where people look.
    let seen = [
        engine.docker(&["volume", "inspect", "first", "second"]),
        engine.docker(&["plugin", "inspect", PLUGIN]),
        engine.log_tail(usize::MAX),
    ];
    for key in [ONE, ONE_LATER, TWO] {
        assert!(!seen.iter().any(|text| text.contains(&secret(key))), "{key}");
    }
}
