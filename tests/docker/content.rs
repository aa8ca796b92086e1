//! What gets into a volume by other ways than a program in a container: copy-up, `docker cp`, and
//! Compose.

use crate::support::dockerd::{IMAGE, PLUGIN};
use crate::{engine, outside, turn};

#[test]
fn copy_up_keeps_modes_owners_symlinks_hard_links_and_fifos() {
    let _turn = turn();
    let (engine, server) = engine();
    engine.import_busybox(|root| {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let app = root.join("app");
        std::fs::create_dir(&app).unwrap();
        std::fs::set_permissions(&app, PermissionsExt::from_mode(0o750)).unwrap();
        std::fs::write(app.join("file"), "content").unwrap();
        std::fs::set_permissions(app.join("file"), PermissionsExt::from_mode(0o604)).unwrap();
        chown(app.join("file"), Some(1234), Some(2345)).unwrap();
        std::fs::hard_link(app.join("file"), app.join("second")).unwrap();
        symlink("file", app.join("link")).unwrap();
        nix::unistd::mkfifo(&app.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::create_dir(app.join("sub")).unwrap();
        std::fs::set_permissions(app.join("sub"), PermissionsExt::from_mode(0o1770)).unwrap();
        std::fs::write(app.join("sub/deep"), "x".repeat(300_000)).unwrap();
        chown(app.join("sub"), Some(9), Some(10)).unwrap();
        chown(&app, Some(77), Some(88)).unwrap();
    });
    engine.docker(&["volume", "create", "-d", PLUGIN, "copied"]);
    let script = "stat -c '%a %u %g %h' /app/file; stat -c '%a %u %g' /app /app/sub; \
                  cat /app/link /app/second; stat -c '%F' /app/link /app/fifo; \
                  [ /app/file -ef /app/second ] && echo same; stat -c %s /app/sub/deep";
    let run = |script: &str| engine.run_at("copied", "/app", script);
    let wanted = "604 1234 2345 2\n750 77 88\n1770 9 10\ncontentcontentsymbolic link\nfifo\nsame\n\
                  300000\n";
    assert_eq!(run(script), wanted);
    // And again from a second mount.
    assert_eq!(run(script), wanted);
    let deep = "x".repeat(300_000);
    outside::rests(
        &server,
        "team/copied",
        &[
            ("fifo", ""),
            ("file", "content"),
            ("link", "file"),
            ("second", "content"),
            ("sub/deep", &deep),
        ],
    );
    let seen = outside::attributes(&server, "team/copied");
    assert_eq!(seen["file"], "f 604 1234 2345 7");
    assert_eq!(seen["second"], "f 604 1234 2345 7");
    assert_eq!(seen["link"], "l 777 0 0 4 file");
    assert_eq!(seen["fifo"], "p 400 0 0 0");
    assert_eq!(seen["sub"], "d 1770 9 10");
    assert_eq!(seen["sub/deep"], "f 644 0 0 300000");
}

#[test]
fn docker_cp_works_while_a_container_runs_and_does_not_unmount_it() {
    let _turn = turn();
    let (engine, server) = engine();
    engine.docker(&["volume", "create", "-d", PLUGIN, "data"]);
    engine.start_container("box", "data", "echo inside >/d/in; sleep 600");
    let work = tempfile::tempdir().unwrap();
    let (here, back) = (work.path().join("out"), work.path().join("back"));
    std::fs::write(&here, "from outside\n").unwrap();
    engine.docker(&["cp", here.to_str().unwrap(), "box:/d/copied"]);
    engine.docker(&["cp", "box:/d/in", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "inside\n");
    let script = "cat /d/copied; echo more >/d/more; cat /d/more";
    assert_eq!(engine.exec("box", script), "from outside\nmore\n");
    let content = [("copied", "from outside\n"), ("in", "inside\n"), ("more", "more\n")];
    outside::comes_to_rest(&server, "team/data", &content);
    engine.docker(&["rm", "-f", "box"]);
    assert_eq!(engine.run("data", "cat /d/copied /d/more"), "from outside\nmore\n");
    outside::rests(&server, "team/data", &content);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&here).unwrap());
    let seen = outside::attributes(&server, "team/data");
    assert!(seen["copied"].contains(&format!(" {owner} ")), "{seen:?}");
}

#[test]
fn compose_volumes_with_driver_opts() {
    let _turn = turn();
    let (engine, server) = engine();
    // Docker calls the driver by its tag afterwards, and Compose 1 compares the names: only with the
    // tag does it recognise a volume that it has made.
    for (driver, name, runs) in [(PLUGIN, "plain", 1), ("s3vol:latest", "tagged", 2)] {
        let project = tempfile::Builder::new().prefix("proj").tempdir().unwrap();
        let file = format!(
            "version: '2.4'\nservices:\n  app:\n    image: {IMAGE}\n    network_mode: none\n    \
             command: [/bin/sh, -c, 'echo composed >>/d/file; chmod 600 /d/file']\n    \
             volumes: ['data:/d']\n\
             volumes:\n  data:\n    driver: {driver}\n    name: {name}\n    driver_opts:\n      \
             commit: 1s\n      settle-after: 1s\n      prefix: elsewhere/{name}\n"
        );
        std::fs::write(project.path().join("docker-compose.yml"), file).unwrap();
        let compose = |args: &[&str]| {
            let out = engine.compose(project.path(), args);
            let said = String::from_utf8_lossy(&out.stderr);
            let log = engine.log_tail(3000);
            assert!(out.status.success(), "docker-compose {args:?}: {said}\n{log}");
        };
        for _ in 0..runs {
            compose(&["up", "--no-color", "--force-recreate"]);
            // The containers' own end is not waited for by `up`.
            compose(&["rm", "--force", "--stop"]);
        }
        let prefix = format!("elsewhere/{name}");
        outside::rests(&server, &prefix, &[("file", &"composed\n".repeat(runs))]);
        let size = 9 * runs;
        let seen = outside::attributes(&server, &prefix);
        assert_eq!(seen["file"], format!("f 600 0 0 {size}"));
        compose(&["down", "-v"]);
        assert!(!crate::listed(&engine, name));
    }
}
