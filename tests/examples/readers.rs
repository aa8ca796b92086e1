//! A reader beside a writer, on its host and on another one; and what Compose says of a volume that is there.

use crate::image::alpine;
use crate::support::dockerd::Dockerd;
use crate::support::wait_for;
use crate::{SOON, compose, example, hosts_with_plugin};

/// What the file itself says is to be done once, as words of docker.
fn said_at_the_top(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(example("compose-readers").join(file)).unwrap();
    let line = text.lines().find_map(|line| line.split_once("docker volume create ")).unwrap();
    ["volume", "create"].into_iter().chain(line.1.split(' ')).map(str::to_owned).collect()
}

#[test]
#[ignore = "make test-examples"]
fn examples_readers_follow_a_writer_on_its_host_and_on_another_one() {
    let (engines, _server) = hosts_with_plugin(&["writer", "reader"]);
    let [writer, reader] = &engines[..] else { panic!("two") };
    for engine in [writer, reader] {
        alpine(engine);
        // As somebody would; from then on its Docker knows what it saw.
        engine.docker(&["volume", "ls"]);
    }
    let create = |engine: &Dockerd, file: &str| {
        let words = said_at_the_top(file);
        engine.docker(&words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    create(writer, "writer.yml");
    compose(writer, "compose-readers", &["-f", "writer.yml", "up", "-d"]);
    create(writer, "reader.yml");
    wait_for("the other host to know the volume", SOON, || {
        reader.docker(&["volume", "ls", "-q"]).contains("feed-reader").then_some(())
    });
    let written = "exec -T writer tail -n 1 /feed/log";
    for engine in [reader, writer] {
        let files = ["-p", "readers", "-f", "reader.yml"];
        let read = |words: &str| {
            let words: Vec<&str> = files.into_iter().chain(words.split(' ')).collect();
            compose(engine, "compose-readers", &words)
        };
        read("up -d");
        let words: Vec<&str> = ["-f", "writer.yml"].into_iter().chain(written.split(' ')).collect();
        let last = compose(writer, "compose-readers", &words);
        wait_for("the reader to see it", SOON, || {
            read("logs --no-color reader").contains(last.trim()).then_some(())
        });
        let out = engine.compose(
            &example("compose-readers"),
            &["-p", "readers", "-f", "reader.yml", "exec", "-T", "reader", "touch", "/feed/mine"],
        );
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("Read-only file system"), "{said}");
        // Nobody removes what is external.
        read("down -v");
        assert!(engine.docker(&["volume", "ls", "-q"]).contains("feed-reader"));
    }

    // Why the volumes of these files are external: where the volume is there, options are compared with those that
    // this host's Docker was given, which are none.
    let project = tempfile::tempdir().unwrap();
    let file = "services: {app: {image: alpine, volumes: ['feed:/feed']}}\n\
                volumes: {feed: {name: feed, driver: 's3vol:latest', driver_opts: {readonly: 'true'}}}\n";
    std::fs::write(project.path().join("compose.yml"), file).unwrap();
    let out = reader.compose(project.path(), &["up"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("uses a different \"readonly\""), "{said}");
    compose(writer, "compose-readers", &["-f", "writer.yml", "down"]);
}
