//! Compose on one host: one container, a web site, uploads.

use crate::image::{Image, alpine};
use crate::support::wait_for;
use crate::{SOON, compose, hosts_with_plugin, object, page};

/// As a first process it would ignore what tells it to end.
fn until_told(command: &str) -> String {
    format!("CMD [\"sh\", \"-c\", \"trap 'exit 0' TERM; {command} & wait\"]")
}

#[test]
#[ignore = "make test-examples"]
fn examples_one_container_finds_its_file_again_and_it_is_an_object() {
    let (engines, server) = hosts_with_plugin(&["one"]);
    let engine = &engines[0];
    alpine(engine);
    for runs in 1..3 {
        compose(engine, "compose-one", &["up", "--no-color"]);
        let log = object(&server, "team/one/log", |text| text.lines().count() == runs);
        let logs = compose(engine, "compose-one", &["logs", "--no-color"]);
        assert!(logs.contains(log.lines().next().unwrap()), "{logs}");
    }
    compose(engine, "compose-one", &["down"]);
    assert_eq!(engine.docker(&["volume", "ls", "-q"]), "one\n");
    compose(engine, "compose-one", &["down", "-v"]);
    assert_eq!(engine.docker(&["volume", "ls", "-q"]), "");
    object(&server, "team/one/log", |text| text.lines().count() == 2);
    // Within its grace it comes back.
    compose(engine, "compose-one", &["up", "--no-color"]);
    object(&server, "team/one/log", |text| text.lines().count() == 3);
}

#[test]
#[ignore = "make test-examples"]
fn examples_a_website_is_edited_in_the_bucket() {
    let (engines, server) = hosts_with_plugin(&["web"]);
    let engine = &engines[0];
    let image = Image::new(
        "mkdir -p \"$1/usr/share/nginx/html\"
         echo 'Welcome to nginx!' >\"$1/usr/share/nginx/html/index.html\"",
    );
    image.import(engine, "nginx:alpine", &[&until_told("httpd -f -p 80 -h /usr/share/nginx/html")]);
    compose(engine, "compose-website", &["up", "-d"]);
    let served = |path: &str, text: &str| {
        wait_for(&format!("{path} to say {text:?}"), SOON, || {
            page(engine, 8080, path).is_ok_and(|page| page == text).then_some(())
        });
    };
    // Docker has copied what the image has there.
    served("/index.html", "Welcome to nginx!\n");
    object(&server, "team/pages/index.html", |text| text == "Welcome to nginx!\n");

    let put = std::time::Instant::now();
    server.put_foreign("team/pages/index.html", "ours\n", &[]);
    server.put_foreign("team/pages/news/today.html", "new\n", &[]);
    served("/index.html", "ours\n");
    served("/news/today.html", "new\n");
    assert!(put.elapsed() < SOON / 2, "within `refresh`: {:?}", put.elapsed());
    assert!(server.delete_foreign("team/pages/news/today.html"));
    wait_for("the page to be gone", SOON, || page(engine, 8080, "/news/today.html").err());

    compose(engine, "compose-website", &["down", "-v"]);
    assert_eq!(engine.docker(&["volume", "ls", "-q"]), "");
    object(&server, "team/pages/index.html", |text| text == "ours\n");
}

#[test]
#[ignore = "make test-examples"]
fn examples_uploads_are_shared_with_an_application_by_their_keys() {
    let (engines, server) = hosts_with_plugin(&["blog"]);
    let engine = &engines[0];
    let image = Image::new("mkdir -p \"$1/var/www/html\"");
    let serve = until_told("httpd -f -p 80 -h /var/www/html");
    image.import(engine, "wordpress:6-apache", &[&serve, "VOLUME /var/www/html"]);
    image.import(engine, "mariadb:11", &[&until_told("sleep 3600")]);

    server.put_foreign("media/2025/old.jpg", "of the application", &[]);
    compose(engine, "compose-uploads", &["up", "-d"]);
    // As the blog's own user, which owns what nobody else owns.
    let www_data = |script: &str| {
        let script = format!("cd /var/www/html/wp-content/uploads; {script}");
        compose(engine, "compose-uploads", &["exec", "-T", "-u", "33", "blog", "sh", "-c", &script])
    };
    assert_eq!(
        www_data("stat -c '%U %a' . 2025 2025/old.jpg"),
        "www-data 775\nwww-data 775\nwww-data 664\n"
    );
    www_data(
        "mkdir -p 2026/12 && echo picture >2026/12/pic.jpg && echo ' and ours' >>2025/old.jpg",
    );
    object(&server, "media/2026/12/pic.jpg", |text| text == "picture\n");
    object(&server, "media/2025/old.jpg", |text| text == "of the application and ours\n");
    // A page of the blog shows it, and what the application adds.
    let uploads = "/wp-content/uploads";
    assert_eq!(page(engine, 8081, &format!("{uploads}/2026/12/pic.jpg")).unwrap(), "picture\n");
    server.put_foreign("media/2026/12/pic-small.jpg", "small\n", &[]);
    wait_for("what the application added", SOON, || {
        let page = page(engine, 8081, &format!("{uploads}/2026/12/pic-small.jpg"));
        page.is_ok_and(|page| page == "small\n").then_some(())
    });
    compose(engine, "compose-uploads", &["down", "-v"]);
    assert_eq!(
        server.keys("media/2026/12/pic").len(),
        2,
        "the volume is removed, its objects stay"
    );
}
