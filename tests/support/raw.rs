//! A bare S3 client for tests of the server itself: every request is written out by the test, is
//! signed in its query by `rusty-s3`, and is sent once.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::{Method, Response};
use rusty_s3::{Bucket, UrlStyle};

use super::s3server::TestS3;

/// Talks to one bucket of one server.
#[derive(Debug, Clone)]
pub struct Raw {
    http: reqwest::Client,
    bucket: Bucket,
    access_key: String,
    secret_key: String,
    /// Added to the host's clock when a request is signed.
    pub clock_offset: i64,
    pub expires: u64,
}

/// A request to be sent.
#[derive(Debug, Default, Clone)]
pub struct Ask<'a> {
    pub method: Method,
    pub key: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Bytes,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The content of the first XML element of this name.
    pub fn element(&self, name: &str) -> String {
        self.elements(name).into_iter().next().unwrap_or_default()
    }

    /// The content of every XML element of this name.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        text.split(&format!("<{name}>"))
            .skip(1)
            .filter_map(|rest| Some(rest.split_once(&format!("</{name}>"))?.0.to_owned()))
            .collect()
    }
}

impl Raw {
    pub fn new(server: &TestS3) -> Self {
        Self::with_keys(server, server.access_key(), server.secret_key())
    }

    pub fn with_keys(server: &TestS3, access_key: &str, secret_key: &str) -> Self {
        let bucket = Bucket::new(
            server.endpoint().parse().unwrap(),
            UrlStyle::Path,
            server.bucket().to_owned(),
            server.region().to_owned(),
        );
        Raw {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            bucket: bucket.unwrap(),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            clock_offset: 0,
            expires: 60,
        }
    }

    /// The signed URL of a request, which can be sent later.
    pub fn url(&self, ask: &Ask<'_>) -> url::Url {
        let mut query = ask.query.to_vec();
        query.sort_unstable();
        let mut headers = ask.headers.to_vec();
        headers.sort_unstable();
        let method = match ask.method {
            Method::PUT => rusty_s3::Method::Put,
            Method::POST => rusty_s3::Method::Post,
            Method::HEAD => rusty_s3::Method::Head,
            Method::DELETE => rusty_s3::Method::Delete,
            _ => rusty_s3::Method::Get,
        };
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap()
            + jiff::SignedDuration::from_secs(self.clock_offset);
        let url = match ask.key {
            "" => self.bucket.base_url().clone(),
            key => self.bucket.object_url(key),
        };
        rusty_s3::signing::sign(
            &now,
            method,
            url,
            &self.access_key,
            &self.secret_key,
            None,
            self.bucket.region(),
            self.expires,
            query.into_iter(),
            headers.into_iter(),
        )
    }

    /// Sends a request with a URL that was signed before.
    pub async fn send_to(&self, url: url::Url, ask: &Ask<'_>) -> reqwest::Result<Response> {
        let mut request = self.http.request(ask.method.clone(), url.as_str());
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        if ask.method == Method::PUT || ask.method == Method::POST {
            request = request.body(ask.body.clone());
        }
        request.timeout(Duration::from_secs(30)).send().await
    }

    /// Sends a request and reads the answer.
    pub async fn ask(&self, ask: Ask<'_>) -> reqwest::Result<Answer> {
        let response = self.send_to(self.url(&ask), &ask).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    pub async fn put(&self, key: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let ask = Ask { method: Method::PUT, key, headers, body, ..Ask::default() };
        self.ask(ask).await.unwrap()
    }

    pub async fn get(&self, key: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask(Ask { key, headers, ..Ask::default() }).await.unwrap()
    }

    pub async fn delete(&self, key: &str, headers: &[(&str, &str)]) -> Answer {
        let ask = Ask { method: Method::DELETE, key, headers, ..Ask::default() };
        self.ask(ask).await.unwrap()
    }

    pub async fn list(&self, query: &[(&str, &str)]) -> Answer {
        let mut all = vec![("list-type", "2")];
        all.extend_from_slice(query);
        self.ask(Ask { query: &all, ..Ask::default() }).await.unwrap()
    }
}
