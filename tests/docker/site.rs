//! A static site that an S3 application puts and a container edits: each object is served as before.

use serde_json::{Value, json};

use crate::support::boto::Boto;
use crate::support::dockerd::PLUGIN;
use crate::{engine, turn};

const ZIPPED: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// File, content type, what else is put.
fn site() -> Vec<(&'static str, &'static [u8], Value)> {
    let of = |content_type: &str, cache: &str| {
        json!({
            "ContentType": content_type,
            "CacheControl": cache,
            "Metadata": { "app-version": "1.2", "owner": "web team" },
            "Tagging": "site=main&stage=live",
        })
    };
    let mut zipped = of("text/html; charset=utf-8", "max-age=60");
    zipped["ContentEncoding"] = json!("gzip");
    vec![
        ("index.html", b"<html>one</html>\n", of("text/html; charset=utf-8", "no-cache")),
        ("css/style.css", b"p { }\n", of("text/css", "max-age=3600")),
        ("img/logo.svg", b"<svg/>\n", of("image/svg+xml", "max-age=60")),
        ("img/photo.jpg", b"\xff\xd8\xff\xe0 picture", of("image/jpeg", "max-age=60")),
        ("page.html", ZIPPED, zipped),
        ("img/", b"", of("application/x-directory", "no-store")),
    ]
}

#[test]
fn a_site_edited_through_a_container_is_served_as_before() {
    let _turn = turn();
    let (engine, server) = engine();
    let mut boto = Boto::new(&server);
    let key = |name: &str| format!("team/site/{name}");
    for (name, body, args) in site() {
        boto.put(&key(name), body, args);
    }
    let before: Vec<_> = site().iter().map(|(name, ..)| boto.bears(&key(name))).collect();
    engine.docker(&["volume", "create", "-d", PLUGIN, "site"]);
    engine.run(
        "site",
        "cd /d && echo '<!-- two -->' >>index.html && chmod 600 css/style.css && touch -d @1000 page.html \
         && mv img/photo.jpg img/picture.jpg && mv img pictures && echo '<svg></svg>' >pictures/logo.svg \
         && cat page.html page.html >twice && cat twice >page.html && rm twice && echo x >new.js && cp new.js copy.txt",
    );
    let index = server.get(&key("index.html")).unwrap();
    assert_eq!(index.body, b"<html>one</html>\n<!-- two -->\n"[..]);
    for (was, is) in [
        (0, "index.html"),
        (1, "css/style.css"),
        (2, "pictures/logo.svg"),
        (3, "pictures/picture.jpg"),
        (4, "page.html"),
        (5, "pictures/"),
    ] {
        assert_eq!(boto.bears(&key(is)), before[was], "{is}");
    }
    assert_eq!(boto.bears(&key("new.js"))["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(boto.bears(&key("copy.txt"))["content-type"], "text/plain; charset=utf-8");
    let page = server.get(&key("page.html")).unwrap();
    assert_eq!(page.body, [ZIPPED, ZIPPED].concat());
    assert!(server.get(&key("css/style.css")).unwrap().metadata.contains_key("mode"));
}
