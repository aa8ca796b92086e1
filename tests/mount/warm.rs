//! `s3vol warm`: what it read needs the bucket no more.

use super::plugin::Plugin;
use super::rig::finish;
use super::support::s3server::{Op, TestS3};
use super::support::scrape::Scrape;
use super::support::unmanaged::s3vol_as;
use s3vol::metrics::names;

#[test]
fn what_was_warmed_is_read_without_the_bucket() {
    let server = TestS3::start();
    let mut plugin = Plugin::start(&server);
    let body = |file: usize| vec![file as u8; 10_000 + file];
    for file in 0..20 {
        server.put_foreign(&format!("team/warmed/{}/{file}", file % 2), body(file), &[]);
    }
    server.put_foreign("team/warmed/large", vec![7; 3 << 20], &[]);
    plugin.create("warmed", &[]).unwrap();
    let socket = plugin.socket();
    // No other test has a volume of this URL: they share the mount table, in which it is looked up.
    let warm = |what: &str| {
        let mut command = s3vol_as("warm", None);
        command.args(["warm", "--socket"]).arg(&socket).arg(what);
        finish(&mut command)
    };
    let (code, _, errors) = warm("warmed");
    assert!(code == Some(1) && errors.contains("not mounted"), "{errors}");
    let (code, _, errors) = warm("nobody");
    assert!(code == Some(1) && errors.contains("there is no volume nobody"), "{errors}");
    let (code, _, errors) = warm("/tmp");
    assert!(code == Some(1) && errors.contains("no volume of s3vol"), "{errors}");

    let place = plugin.mount("warmed", "c1");
    let (code, out, errors) = warm(place.join("1").to_str().unwrap());
    assert!(code == Some(0) && out.starts_with("10 of 10 files read, 97.8 KiB"), "{out}{errors}");
    let (code, out, errors) = warm("warmed");
    assert!(code == Some(0) && out.starts_with("21 of 21 files read, 3.2 MiB"), "{out}{errors}");
    // In the cache on the local disk, and not only in the memory of the kernel.
    let cached = Scrape::socket(&plugin.socket()).unwrap().sum(names::CACHE_SIZE.name, &[]);
    assert!(cached >= 3_340_000.0, "{cached}");
    server.clear_log();
    for file in 0..20 {
        let read = std::fs::read(place.join(format!("{}/{file}", file % 2))).unwrap();
        assert!(read == body(file), "{file}");
    }
    assert_eq!(std::fs::read(place.join("large")).unwrap(), vec![7; 3 << 20]);
    let gets = server.log().into_iter().filter(|one| one.op == Op::Get);
    let gets: Vec<_> = gets.filter(|one| one.key.starts_with("team/warmed/")).collect();
    assert!(gets.is_empty(), "{gets:?}");

    plugin.unmount("warmed", "c1");
}
