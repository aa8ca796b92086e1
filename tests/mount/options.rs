//! Options of a volume that exists: `s3vol set`, and `docker volume create` where Docker asks.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::plugin::Plugin;
use super::rig::finish;
use super::support::s3server::TestS3;
use super::support::unmanaged::s3vol_as;
use super::support::wait_for;

/// Much less than the times that the volume is made with.
const SOON: Duration = Duration::from_secs(20);

/// `s3vol set`: whether it succeeded, and what it said.
fn set(plugin: &Plugin, volume: &str, options: &str) -> (bool, String) {
    let mut command = s3vol_as("set", None);
    command.args(["set", "--socket"]).arg(plugin.socket()).args([volume, "-o", options]);
    let (code, out, errors) = finish(&mut command);
    (code == Some(0), if code == Some(0) { out } else { errors })
}

#[test]
fn a_mounted_volume_follows_changed_options_at_once_and_so_does_its_next_process() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    plugin.create("web", &[("commit", "5m"), ("settle_after", "1d"), ("refresh", "1d")]).unwrap();
    let place = plugin.mount("web", "c1");
    let at_rest = |name: &str| server.get(&format!("team/web/{name}")).map(|object| object.body);
    std::fs::write(place.join("early"), "waits for a day").unwrap();
    assert!(std::fs::read_dir(&place).unwrap().count() == 1);
    server.put_foreign("team/web/foreign", "somebody else's", &[]);
    assert!(!place.join("foreign").exists(), "what is known is good for a day");

    let given = "commit=100ms,settle_after=0,refresh=0,settle=auto,content_type=text/x-new";
    let (done, said) = set(&plugin, "web", given);
    assert!(done, "{said}");
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(lines[0].starts_with("commit is 100ms now, and was 5m"), "{said}");
    assert!(lines[1].starts_with("content_type will be text/x-new when"), "{said}");
    assert!(lines[1].contains("when the volume is mounted next"), "{said}");
    wait_for("an early file at rest", SOON, || at_rest("early"));
    wait_for("a foreign file", SOON, || place.join("foreign").exists().then_some(()));
    assert_eq!(set(&plugin, "web", given), (true, "web has these options already\n".to_owned()));

    plugin.kill("worker");
    std::fs::write(place.join("late"), "by the next process").unwrap();
    wait_for("a late file at rest", SOON, || at_rest("late"));

    // What takes effect at the next mount does so also where the process still lingers.
    plugin.unmount("web", "c1");
    let place = plugin.mount("web", "c2");
    std::fs::write(place.join("typed"), "x").unwrap();
    let typed = wait_for("a typed file at rest", SOON, || server.get("team/web/typed"));
    assert_eq!(typed.carried.headers["content-type"], "text/x-new");

    // A quota, while something is written.
    assert!(set(&plugin, "web", "size=1MiB").0);
    let file = std::fs::File::create(place.join("large")).unwrap();
    let error = file.write_all_at(&vec![1; 2 << 20], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(set(&plugin, "web", "size=none").0);
    file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
    drop(file);
    plugin.unmount("web", "c2");
}

#[test]
fn what_cannot_be_changed_is_refused_and_changes_nothing() {
    let server = TestS3::start();
    let plugin = Plugin::start(&server);
    plugin.create("web", &[]).unwrap();
    let refused = |volume: &str, options: &str, words: &[&str]| {
        let (done, said) = set(&plugin, volume, options);
        assert!(!done && words.iter().all(|word| said.contains(word)), "{options}: {said}");
    };
    let never = "exists with other options";
    refused("web", "endpoint=http://127.0.0.1:9,commit=1s", &[never, "endpoint", "never change"]);
    refused("web", "prefix=elsewhere", &[never, "url is", "/team/web", "not"]);
    refused("web", "commit=1y", &["commit"]);
    refused("web", "nonsense=1", &["nonsense"]);
    refused("web", "readonly=true", &["docker volume create"]);
    refused("web", "region=eu-west-1", &[never, "region"]);
    refused("nobody", "commit=1s", &["there is no volume nobody"]);
    assert_eq!(set(&plugin, "web", "commit=5s").1, "web has these options already\n");

    // As a host whose Docker does not know the volume asks for it.
    plugin.create("web", &[("commit", "9s")]).unwrap();
    assert_eq!(set(&plugin, "web", "commit=9s").1, "web has these options already\n");
    let (_, said) = set(&plugin, "web", "file_mode=0664,cache_size=1g");
    assert!(said.contains("file_mode will be 0664 when") && said.contains("was 0644"), "{said}");
    assert!(said.contains("cache_size is 1GiB now, and was 10GiB"), "{said}");
    assert!(said.contains("no process of this host writes web"), "{said}");
    // A name of its own for reading never becomes a second writer.
    let there = format!("s3://{}/team/web", server.bucket());
    plugin.create("reader", &[("url", &there), ("readonly", "true")]).unwrap();
    let error = plugin.create("reader", &[("readonly", "false")]).unwrap_err();
    assert!(error.contains("readonly is true, not false"), "{error}");
    let reader = [("readonly", "true"), ("commit", "7s")];
    let error = plugin.create("web", &reader).unwrap_err();
    assert!(error.contains("is only read here") && error.contains("commit is 9s"), "{error}");
}
