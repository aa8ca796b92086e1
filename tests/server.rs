//! The test S3 server keeps what the other tests build on.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use support::raw::{Ask, Raw};
use support::s3server::{Action, Area, OTHER_ACCESS_KEY, OTHER_SECRET_KEY, Op, Rule, TestS3};

fn start() -> (TestS3, Raw) {
    let server = TestS3::start();
    let raw = Raw::new(&server);
    (server, raw)
}

const NONE_MATCH: &[(&str, &str)] = &[("if-none-match", "*")];

#[tokio::test(flavor = "multi_thread")]
async fn one_of_sixteen_parallel_creates_wins() {
    let (server, raw) = start();
    for round in 0..50 {
        let key = format!("race/{round}");
        let racers = (0..16).map(|n| {
            let (raw, key) = (raw.clone(), key.clone());
            tokio::spawn(async move { (n, raw.put(&key, &n.to_string(), NONE_MATCH).await.status) })
        });
        let mut winners = Vec::new();
        for racer in futures::future::join_all(racers).await {
            match racer.unwrap() {
                (n, 200) => winners.push(n),
                (_, status) => assert_eq!(status, 412),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(server.get(&key).unwrap().body, winners[0].to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_sixteen_parallel_replacements_wins() {
    let (server, raw) = start();
    let mut etag = raw.put("cas", "start", &[]).await.header("etag").to_owned();
    for round in 0..20 {
        let racers = (0..16).map(|n| {
            let (raw, etag) = (raw.clone(), etag.clone());
            tokio::spawn(async move {
                raw.put("cas", &format!("{round}.{n}"), &[("if-match", &etag)]).await
            })
        });
        let answers = futures::future::join_all(racers).await;
        let won: Vec<_> = answers.iter().flatten().filter(|a| a.status == 200).collect();
        assert_eq!(won.len(), 1, "round {round}");
        etag = won[0].header("etag").to_owned();
        assert_eq!(format!("\"{}\"", server.get("cas").unwrap().etag), etag);
    }
}

#[tokio::test]
async fn every_condition_both_ways() {
    let (server, raw) = start();
    assert_eq!(raw.put("k", "one", &[("if-match", "\"x\"")]).await.status, 404);
    assert_eq!(raw.put("k", "one", NONE_MATCH).await.status, 200);
    assert_eq!(raw.put("k", "two", NONE_MATCH).await.status, 412);
    let etag = raw.get("k", &[]).await.header("etag").to_owned();
    assert_eq!(etag, "\"f97c5d29941bfb1b2fdab0874906ab82\"", "the quoted MD5 of the content");
    assert_eq!(raw.put("k", "two", &[("if-match", "\"x\"")]).await.status, 412);
    assert_eq!(raw.get("k", &[("if-match", "\"x\"")]).await.status, 412);
    assert_eq!(raw.get("k", &[("if-match", &etag)]).await.status, 200);
    assert_eq!(raw.get("k", &[("if-none-match", &etag)]).await.status, 304);
    assert_eq!(raw.put("k", "two", &[("if-match", &etag)]).await.status, 200);
    assert_eq!(raw.delete("k", &[("if-match", &etag)]).await.status, 412);
    assert_eq!(server.get("k").unwrap().body, "two");

    let source = format!("/{}/k", server.bucket());
    let now = raw.get("k", &[]).await.header("etag").to_owned();
    let copy = async |to: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("x-amz-copy-source", source.as_str())];
        headers.extend_from_slice(more);
        let ask = Ask { method: Method::PUT, key: to, headers: &headers, ..Ask::default() };
        raw.ask(ask).await.unwrap().status
    };
    assert_eq!(copy("c", &[("x-amz-copy-source-if-match", &etag)]).await, 412);
    assert_eq!(copy("c", &[("x-amz-copy-source-if-match", &now)]).await, 200);
    assert_eq!(copy("c", NONE_MATCH).await, 412);
    assert_eq!(copy("d", NONE_MATCH).await, 200);
    assert_eq!(copy("d", &[("if-match", &etag)]).await, 412);
    assert_eq!(copy("d", &[("if-match", &now)]).await, 200);
    assert_eq!(raw.delete("k", &[("if-match", &now)]).await.status, 204);
    assert_eq!(raw.delete("k", &[("if-match", &now)]).await.status, 404);
    assert_eq!(raw.delete("k", &[]).await.status, 204);
}

#[tokio::test]
async fn metadata_is_kept_replaced_and_copied() {
    let (server, raw) = start();
    let sent = [("content-type", "text/x-test"), ("x-amz-meta-mode", "33188")];
    raw.put("a", "body", &sent).await;
    let answer = raw.get("a", &[]).await;
    assert_eq!(answer.header("x-amz-meta-mode"), "33188");
    assert_eq!(answer.header("content-type"), "text/x-test");
    assert!(!answer.header("last-modified").is_empty() && !answer.header("date").is_empty());

    let source = format!("/{}/a", server.bucket());
    let copy = async |to: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("x-amz-copy-source", source.as_str())];
        headers.extend_from_slice(more);
        let ask = Ask { method: Method::PUT, key: to, headers: &headers, ..Ask::default() };
        raw.ask(ask).await.unwrap().status
    };
    assert_eq!(copy("kept", &[]).await, 200);
    assert_eq!(server.get("kept").unwrap().metadata["mode"], "33188");
    let replace = [("x-amz-meta-uid", "7"), ("x-amz-metadata-directive", "REPLACE")];
    assert_eq!(copy("a", &replace).await, 200);
    let object = server.get("a").unwrap();
    assert_eq!(object.metadata.into_iter().collect::<Vec<_>>(), [("uid".into(), "7".into())]);
    assert_eq!(copy("a", &[]).await, 400, "a copy onto itself must change something");
}

#[tokio::test]
async fn ranges() {
    let (_server, raw) = start();
    raw.put("k", "0123456789", &[]).await;
    let range = async |range: &str| {
        let answer = raw.get("k", &[("range", range)]).await;
        (answer.status, answer.text(), answer.header("content-range").to_owned())
    };
    assert_eq!(range("bytes=2-4").await, (206, "234".into(), "bytes 2-4/10".into()));
    assert_eq!(range("bytes=8-99").await, (206, "89".into(), "bytes 8-9/10".into()));
    assert_eq!(range("bytes=-3").await, (206, "789".into(), "bytes 7-9/10".into()));
    assert_eq!(range("bytes=10-").await.0, 416);
}

#[tokio::test]
async fn listings_page_and_fold() {
    let (server, raw) = start();
    for key in ["a", "a/b", "a//c", "a/d/", "b b", "c+%#1", "é", "z/1", "z/2"] {
        server.put_foreign(key, "x", &[]);
    }
    let all = raw.list(&[]).await;
    assert_eq!(
        all.elements("Key"),
        ["a", "a//c", "a/b", "a/d/", "b b", "c+%#1", "z/1", "z/2", "é"]
    );
    let url = raw.list(&[("encoding-type", "url")]).await;
    assert_eq!(url.elements("Key")[4..6], ["b+b", "c%2B%25%231"]);
    let folded = raw.list(&[("delimiter", "/")]).await;
    assert_eq!(folded.elements("Key"), ["a", "b b", "c+%#1", "é"]);
    assert_eq!(folded.elements("Prefix")[1..], ["a/", "z/"]);
    assert_eq!(raw.list(&[("start-after", "a/d/")]).await.elements("Key")[0], "b b");
    assert_eq!(raw.list(&[("prefix", "a/")]).await.elements("Key"), ["a//c", "a/b", "a/d/"]);

    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let mut query = vec![("delimiter", "/"), ("max-keys", "1")];
        if !token.is_empty() {
            query.push(("continuation-token", &token));
        }
        let page = raw.list(&query).await;
        assert_eq!(page.element("KeyCount"), "1");
        keys.extend(page.elements("Key"));
        prefixes.extend(page.elements("Prefix").into_iter().filter(|p| !p.is_empty()));
        if page.element("IsTruncated") == "false" {
            break;
        }
        token = page.element("NextContinuationToken");
    }
    assert_eq!(keys, ["a", "b b", "c+%#1", "é"]);
    assert_eq!(prefixes, ["a/", "z/"]);
}

#[tokio::test]
async fn multipart_uploads() {
    let (server, raw) = start();
    let begin = async || {
        let headers = [("x-amz-meta-n", "1")];
        let query = [("uploads", "")];
        let ask = Ask {
            method: Method::POST,
            key: "m",
            query: &query,
            headers: &headers,
            ..Ask::default()
        };
        raw.ask(ask).await.unwrap().element("UploadId")
    };
    let part = async |id: &str, number: &str, body: Bytes, headers: &[(&str, &str)]| {
        let query = [("partNumber", number), ("uploadId", id)];
        let ask = Ask { method: Method::PUT, key: "m", query: &query, headers, body };
        raw.ask(ask).await.unwrap()
    };
    let complete = async |id: &str, parts: &[(&str, &str)], headers: &[(&str, &str)]| {
        let list: String = parts
            .iter()
            .map(|(n, e)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>"))
            .collect();
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>").into();
        let query = [("uploadId", id)];
        let ask = Ask { method: Method::POST, key: "m", query: &query, headers, body };
        raw.ask(ask).await.unwrap()
    };

    let id = begin().await;
    let first = part(&id, "1", vec![b'a'; 5 << 20].into(), &[]).await.header("etag").to_owned();
    server.put_foreign("source", vec![b's'; 100], &[]);
    let source = format!("/{}/source", server.bucket());
    let copied = part(
        &id,
        "2",
        Bytes::new(),
        &[("x-amz-copy-source", &source), ("x-amz-copy-source-range", "bytes=10-19")],
    )
    .await
    .element("ETag")
    .replace("&quot;", "\"");
    let parts = [("1", first.as_str()), ("2", copied.as_str())];
    assert_eq!(server.uploads(), [("m".to_owned(), id.clone())]);
    assert_eq!(complete(&id, &[("1", "\"wrong\"")], &[]).await.element("Code"), "InvalidPart");
    server.put_foreign("m", "in the way", &[]);
    assert_eq!(complete(&id, &parts, NONE_MATCH).await.status, 412);
    assert_eq!(server.get("m").unwrap().body, "in the way");
    server.delete_foreign("m");
    assert_eq!(complete(&id, &parts, NONE_MATCH).await.status, 200);
    let object = server.get("m").unwrap();
    assert_eq!(object.body.len(), (5 << 20) + 10);
    assert!(object.etag.ends_with("-2"), "{}", object.etag);
    assert_eq!(object.metadata["n"], "1");
    assert_eq!(complete(&id, &parts, &[]).await.element("Code"), "NoSuchUpload");

    let id = begin().await;
    let small = part(&id, "1", "x".into(), &[]).await.header("etag").to_owned();
    let last = part(&id, "2", "y".into(), &[]).await.header("etag").to_owned();
    let refused = complete(&id, &[("1", &small), ("2", &last)], &[]).await;
    assert_eq!(refused.element("Code"), "EntityTooSmall");
    let query = [("uploadId", id.as_str())];
    let abort = Ask { method: Method::DELETE, key: "m", query: &query, ..Ask::default() };
    assert_eq!(raw.ask(abort.clone()).await.unwrap().status, 204);
    assert_eq!(raw.ask(abort).await.unwrap().status, 404);
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn signatures_are_judged() {
    let (server, raw) = start();
    assert_eq!(raw.put("k", "x", &[]).await.status, 200);
    let other = Raw::with_keys(&server, OTHER_ACCESS_KEY, OTHER_SECRET_KEY);
    assert_eq!(other.get("k", &[]).await.status, 200);
    assert_eq!(server.log().last().unwrap().access_key.as_deref(), Some(OTHER_ACCESS_KEY));
    let wrong = Raw::with_keys(&server, server.access_key(), "wrong");
    assert_eq!(wrong.get("k", &[]).await.element("Code"), "SignatureDoesNotMatch");
    let unknown = Raw::with_keys(&server, "nobody", "wrong");
    assert_eq!(unknown.get("k", &[]).await.element("Code"), "InvalidAccessKeyId");
    let ask = Ask { key: "k", ..Ask::default() };
    let mut unsigned = raw.url(&ask);
    unsigned.set_query(None);
    assert_eq!(raw.send_to(unsigned, &ask).await.unwrap().status(), 403);
}

#[tokio::test]
async fn an_expired_request_is_refused() {
    let (server, mut raw) = start();
    raw.put("k", "x", &[]).await;
    raw.expires = 10;
    raw.clock_offset = -9;
    assert_eq!(raw.get("k", &[]).await.status, 200);
    raw.clock_offset = -12;
    let answer = raw.delete("k", &[]).await;
    assert_eq!((answer.status, answer.element("Code").as_str()), (403, "AccessDenied"));
    assert!(server.get("k").is_some());
}

#[tokio::test]
async fn a_request_that_arrives_late_is_applied_unless_it_expired() {
    let (server, mut raw) = start();
    for (expires, applied) in [(30, true), (1, false)] {
        server.put_foreign("late", "x", &[]);
        let late = Action::DelayThenApply(Duration::from_millis(2500));
        server.fault(Rule::new(Op::Delete, "late", 1, late));
        raw.expires = expires;
        let ask = Ask { method: Method::DELETE, key: "late", ..Ask::default() };
        // The client gives up long before.
        let gone = tokio::time::timeout(Duration::from_millis(300), raw.ask(ask)).await;
        assert!(gone.is_err());
        let done = || server.log().last().filter(|e| e.status != 0).map(|e| e.status);
        let status = support::wait_for("the late DELETE", Duration::from_secs(10), done);
        assert_eq!(status, if applied { 204 } else { 403 });
        assert_eq!(server.get("late").is_none(), applied);
        server.clear_log();
    }
}

#[tokio::test]
async fn the_clock_can_be_off() {
    let (server, mut raw) = start();
    for offset in [3600, -3600] {
        server.set_clock_offset(offset);
        raw.clock_offset = 0;
        raw.expires = 60;
        let answer = raw.put("k", "x", &[]).await;
        assert_eq!(answer.status, 403, "signed by the host's clock");
        // A client that follows the server's clock gets through, and its expiry is judged by it.
        raw.clock_offset = offset;
        assert_eq!(raw.put("k", "x", &[]).await.status, 200);
        raw.expires = 1;
        raw.clock_offset = offset - 3;
        assert_eq!(raw.put("k", "y", &[]).await.element("Code"), "AccessDenied");
        let date = answer.header("date");
        let date = jiff::fmt::rfc2822::parse(date).unwrap().timestamp().as_second();
        let ahead = date - jiff::Timestamp::now().as_second();
        assert!((ahead - offset).abs() <= 2, "{ahead}");
    }
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let (server, raw) = start();
    let fault = |action| server.fault(Rule::new(Op::Put, "f", 1, action));
    let put = async |body: &'static str| {
        let headers = &[("if-none-match", "*")];
        let ask =
            Ask { method: Method::PUT, key: "f", headers, body: body.into(), ..Ask::default() };
        raw.ask(ask).await
    };

    for (status, code) in
        [(409, "ConditionalRequestConflict"), (500, "InternalError"), (503, "SlowDown")]
    {
        fault(Action::Status(status));
        let answer = put("no").await.unwrap();
        assert_eq!((answer.status, answer.element("Code").as_str()), (status, code));
    }
    fault(Action::Status(404));
    assert_eq!(put("no").await.unwrap().element("Code"), "NoSuchBucket");
    fault(Action::ClockSkewError);
    assert_eq!(put("no").await.unwrap().element("Code"), "RequestTimeTooSkewed");
    server.clear_log();
    fault(Action::DropBeforeApply);
    assert!(put("no").await.is_err());
    assert!(server.get("f").is_none(), "none of these is applied");
    assert_eq!((server.count(Op::Put), server.log()[0].status), (1, 0));

    fault(Action::ApplyThenDropReply);
    assert!(put("one").await.is_err());
    assert_eq!(server.get("f").unwrap().body, "one");
    server.delete_foreign("f");
    fault(Action::ApplyThenStatus(500));
    assert_eq!(put("two").await.unwrap().status, 500);
    assert_eq!(server.get("f").unwrap().body, "two");
    fault(Action::IgnoreConditions);
    assert_eq!(put("three").await.unwrap().status, 200);
    assert_eq!(server.get("f").unwrap().body, "three");
    assert_eq!(put("four").await.unwrap().status, 412);

    server.put_foreign("big", vec![7u8; 100_000], &[]);
    server.fault(Rule::new(Op::Get, "big", 1, Action::CutBody(1000)));
    let ask = Ask { key: "big", ..Ask::default() };
    let mut response = raw.send_to(raw.url(&ask), &ask).await.unwrap();
    assert_eq!(response.content_length(), Some(100_000));
    let mut seen = 0;
    let end = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => seen += chunk.len(),
            other => break other,
        }
    };
    assert!(end.is_err(), "a cut body is no complete one");
    assert_eq!(seen, 1000);

    fault(Action::Latency(Duration::from_millis(300)));
    let began = Instant::now();
    assert_eq!(put("five").await.unwrap().status, 412);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(server.faults_left(), 0);
}

#[tokio::test]
async fn a_held_request_arrives_when_the_test_says_so() {
    let (server, raw) = start();
    server.fault(Rule::new(Op::Put, "k", 1, Action::Hold).after(1));
    assert_eq!(raw.put("k", "passes", &[]).await.status, 200);
    let client = raw.clone();
    let late = tokio::spawn(async move { client.put("k", "late", &[]).await });
    let held = async || (server.held() == 1).then_some(());
    support::wait_for_async("the request is held", Duration::from_secs(5), held).await;
    late.abort();
    assert_eq!(raw.put("k", "newer", &[]).await.status, 200);
    assert_eq!(server.get("k").unwrap().body, "newer");
    server.release();
    let applied = async || (server.get("k").unwrap().body == "late").then_some(());
    support::wait_for_async("the late PUT", Duration::from_secs(5), applied).await;
    assert_eq!(server.held(), 0);
}

#[tokio::test]
async fn old_listings_uploads_and_bulk_deletes() {
    let (server, raw) = start();
    for key in ["a/1", "a/2", "b", "c&d"] {
        server.put_foreign(key, "x", &[]);
    }
    let list =
        async |query: &[(&str, &str)]| raw.ask(Ask { query, ..Ask::default() }).await.unwrap();
    let first = list(&[("delimiter", "/"), ("max-keys", "1")]).await;
    assert_eq!(first.elements("Prefix").last().unwrap(), "a/");
    assert_eq!(
        (first.element("NextMarker"), first.element("IsTruncated")),
        ("a/".into(), "true".into())
    );
    let second = list(&[("delimiter", "/"), ("marker", "a/")]).await;
    assert_eq!(second.elements("Key"), ["b", "c&amp;d"]);
    assert_eq!(list(&[("marker", "a/1")]).await.elements("Key")[0], "a/2");
    assert_eq!(list(&[("location", "")]).await.status, 200);

    let mut ids = Vec::new();
    for key in ["up/1", "up/1", "up/2"] {
        let query = [("uploads", "")];
        let ask = Ask { method: Method::POST, key, query: &query, ..Ask::default() };
        ids.push(raw.ask(ask).await.unwrap().element("UploadId"));
    }
    let uploads = list(&[("uploads", ""), ("prefix", "up/"), ("max-uploads", "2")]).await;
    assert_eq!(uploads.elements("Key"), ["up/1", "up/1"]);
    let (key, id) = (uploads.element("NextKeyMarker"), uploads.element("NextUploadIdMarker"));
    let rest = list(&[("uploads", ""), ("key-marker", &key), ("upload-id-marker", &id)]).await;
    assert_eq!(rest.elements("UploadId"), [ids[2].clone()]);
    for (number, body) in [("1", "x"), ("2", "yy"), ("3", "zzz")] {
        let query = [("partNumber", number), ("uploadId", ids[2].as_str())];
        let ask = Ask {
            method: Method::PUT,
            key: "up/2",
            query: &query,
            body: body.into(),
            ..Ask::default()
        };
        assert_eq!(raw.ask(ask).await.unwrap().status, 200);
    }
    let query = [("uploadId", ids[2].as_str()), ("max-parts", "2")];
    let parts = raw.ask(Ask { key: "up/2", query: &query, ..Ask::default() }).await.unwrap();
    assert_eq!(parts.elements("Size"), ["1", "2"]);
    let query = [("uploadId", ids[2].as_str()), ("part-number-marker", "2")];
    let parts = raw.ask(Ask { key: "up/2", query: &query, ..Ask::default() }).await.unwrap();
    assert_eq!(
        (parts.elements("Size"), parts.element("IsTruncated")),
        (vec!["3".into()], "false".into())
    );

    let body = "<Delete><Object><Key>c&amp;d</Key></Object><Object><Key>none</Key></Object>\
                <Object><Key>b</Key><ETag>\"stale\"</ETag></Object></Delete>";
    let query = [("delete", "")];
    let ask = Ask { method: Method::POST, query: &query, body: body.into(), ..Ask::default() };
    let deleted = raw.ask(ask).await.unwrap();
    assert_eq!(deleted.elements("Key"), ["c&amp;d", "none", "b"]);
    assert_eq!(deleted.elements("Code"), ["PreconditionFailed"]);
    assert_eq!(server.keys(""), ["a/1", "a/2", "b"]);
    let last = server.log().pop().unwrap();
    assert_eq!((last.op, last.key.as_str()), (Op::DeleteMany, "c&d"));
}

#[tokio::test]
async fn the_log_tells_what_was_asked() {
    let (server, raw) = start();
    raw.put("vol/.s3vol/v/1/x", "abc", NONE_MATCH).await;
    raw.list(&[("prefix", "vol/")]).await;
    let log = server.log();
    assert_eq!((log[0].op, log[0].area, log[0].status), (Op::Put, Area::State, 200));
    assert!(log[0].conditional && log[0].expires && log[0].bytes_in == 3);
    assert_eq!((log[1].op, log[1].area, log[1].key.as_str()), (Op::List, Area::Object, "vol/"));
    server.clear_log();
    assert!(server.counts().is_empty());
}

#[tokio::test]
async fn bucket_and_server_go_and_come_back() {
    let (server, raw) = start();
    raw.put("k", "x", &[]).await;
    server.remove_bucket();
    assert_eq!(raw.get("k", &[]).await.element("Code"), "NoSuchBucket");
    server.restore_bucket();
    assert_eq!(raw.get("k", &[]).await.text(), "x");
    for _ in 0..3 {
        server.stop();
        let error = raw.ask(Ask { key: "k", ..Ask::default() }).await.unwrap_err();
        assert!(error.is_connect() || error.is_request(), "{error:?}");
        server.restart();
        assert_eq!(raw.get("k", &[]).await.text(), "x");
    }
}
