//! A driver that makes place for another: what was asked is answered, and nobody asks for more.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixStream;

use crate::{Host, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_are_closed_before_the_last_call_is_answered() {
    let host = Host::new();
    let plugin = Arc::new(host.start().await);
    plugin.create("v").await;
    let stream = UnixStream::connect(&plugin.socket).await.unwrap();
    let (mut sender, idle) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let idle = tokio::spawn(idle);
    let answer = sender.send_request(request("VolumeDriver.List", "{}")).await.unwrap();
    answer.into_body().collect().await.unwrap();

    plugin.workers.behaviour.ready.send_replace(None);
    let mounts = Arc::clone(&plugin);
    let mount = tokio::spawn(async move {
        mounts.raw("VolumeDriver.Mount", &json!({ "Name": "v", "ID": "1" }).to_string()).await
    });
    plugin.workers.logged("start v").await;
    plugin.server.abort();
    let driver = Arc::clone(&plugin._driver);
    let rest = tokio::spawn(async move { driver.rest().await });
    idle.await.unwrap().unwrap();
    assert!(!mount.is_finished() && !rest.is_finished());
    plugin.workers.behaviour.ready.send_replace(Some(Ok(())));
    let (status, answer) = mount.await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    rest.await.unwrap();
}
