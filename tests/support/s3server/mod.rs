//! An S3 server in memory for tests and demonstrations: real HTTP, real signatures, linearizable
//! conditions, and faults on request.
//!
//! All state is lost when the handle is dropped. The server runs on threads of its own, so the
//! handle's methods may be called from synchronous and asynchronous code alike.

// Each test and the example use their own part of it.
#![allow(dead_code, unused_imports)]

mod backend;
mod carried;
mod clock;
mod fault;
mod front;
mod model;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub use carried::{Carried, Tags};
pub use fault::{Action, Area, Counts, Logged, Op, Rule};
pub use model::{Listing, MIN_PART, Object, etag_of, list};

use backend::{Auth, Backend};
use state::State;

pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";
/// A second account with the same rights.
pub const OTHER_ACCESS_KEY: &str = "other-access-key";
pub const OTHER_SECRET_KEY: &str = "other-secret-key";
pub const REGION: &str = "us-east-1";

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// 0 takes a free one.
    pub address: SocketAddr,
    pub bucket: String,
    /// Access keys and secrets; the first is the one that [`TestS3::access_key`] names.
    pub keys: Vec<(String, String)>,
    /// Print each request to standard output.
    pub print: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            bucket: "test-bucket".into(),
            keys: vec![
                (ACCESS_KEY.into(), SECRET_KEY.into()),
                (OTHER_ACCESS_KEY.into(), OTHER_SECRET_KEY.into()),
            ],
            print: false,
        }
    }
}

/// A running server. Dropping it closes the port and forgets everything.
#[derive(Debug)]
pub struct TestS3 {
    state: Arc<State>,
    service: S3Service,
    options: Options,
    address: SocketAddr,
    running: Mutex<Option<Running>>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    stopped: Receiver<()>,
}

/// Groups of requests of which each waited for the ones before.
pub fn rounds(log: &[Logged]) -> Vec<Vec<&Logged>> {
    let mut rounds: Vec<Vec<&Logged>> = Vec::new();
    let mut until: Option<SystemTime> = None;
    for entry in log {
        if until.is_none_or(|until| entry.time >= until) {
            rounds.push(Vec::new());
            until = None;
        }
        rounds.last_mut().expect("one").push(entry);
        let end = entry.time + entry.took;
        until = Some(until.map_or(end, |until| until.min(end)));
    }
    rounds
}

/// A line for each of them, with the number of its round.
pub fn shown(rounds: &[Vec<&Logged>]) -> String {
    let mut text = String::new();
    for (number, round) in (1..).zip(rounds) {
        for entry in round {
            let key = entry.key.rsplit("/.s3vol/").next().unwrap_or(&entry.key);
            text += &format!("{number:3} {:?} {key} {}\n", entry.op, entry.status);
        }
    }
    text
}

/// Without what no opening waits for: what is not answered yet, and the look for a newer manifest that the engine makes by
/// itself once it is open (its successor's name again, then the boundary).
pub fn waited_for(mut log: Vec<Logged>) -> Vec<Logged> {
    log.sort_by_key(|entry| entry.time);
    log.retain(|entry| entry.status != 0);
    let again = |at: usize| {
        let entry: &Logged = &log[at];
        let asked = |before: &Logged| before.op == Op::Get && before.key == entry.key;
        entry.key.ends_with(".manifest") && entry.op == Op::Get && log[..at].iter().any(asked)
    };
    if let Some(look) = (0..log.len()).find(|at| again(*at)) {
        let look = log.remove(look);
        let after = |entry: &Logged| entry.time >= look.time + look.took;
        let its_second =
            log.iter().position(|entry| entry.key.ends_with("manifest.boundary") && after(entry));
        its_second.map(|at| log.remove(at));
    }
    log
}

impl TestS3 {
    /// A server on a free loopback port with one empty bucket.
    pub fn start() -> Self {
        Self::with(Options::default()).expect("a loopback port can be bound")
    }

    /// The same as a Ceph gateway.
    pub fn gateway() -> Self {
        let server = Self::start();
        server.speak_as_gateway();
        server
    }

    /// A server as `options` say.
    pub fn with(options: Options) -> io::Result<Self> {
        let state = Arc::new(State::new(options.keys.iter().cloned().collect(), options.print));
        state.buckets.lock().live.insert(options.bucket.clone(), model::Bucket::default());
        let mut builder = S3ServiceBuilder::new(Backend(Arc::clone(&state)));
        builder.set_auth(Auth(Arc::clone(&state)));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-s3")
            .enable_all()
            .build()?;
        let mut server = TestS3 {
            state,
            service: builder.build(),
            address: options.address,
            options,
            running: Mutex::new(None),
            runtime: Some(runtime),
        };
        server.address = server.listen()?;
        Ok(server)
    }

    fn listen(&self) -> io::Result<SocketAddr> {
        let mut running = self.running.lock();
        if running.is_some() {
            return Ok(self.address);
        }
        let listener = TcpListener::bind(self.address)?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = self.runtime.as_ref().expect("present until drop");
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stop = CancellationToken::new();
        let (tell, stopped) = std::sync::mpsc::sync_channel(1);
        runtime.spawn(front::serve(
            listener,
            Arc::clone(&self.state),
            self.service.clone(),
            stop.clone(),
            tell,
        ));
        *running = Some(Running { stop, stopped });
        Ok(address)
    }

    /// Closes the port and every connection; the objects stay. Requests that already arrived are
    /// still applied.
    pub fn stop(&self) {
        if let Some(running) = self.running.lock().take() {
            running.stop.cancel();
            let _ = running.stopped.recv_timeout(Duration::from_secs(5));
        }
    }

    /// Listens again on the same port.
    pub fn restart(&self) {
        self.listen().expect("the port that was just closed can be bound again");
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn bucket(&self) -> &str {
        &self.options.bucket
    }

    pub fn access_key(&self) -> &str {
        &self.options.keys[0].0
    }

    pub fn secret_key(&self) -> &str {
        &self.options.keys[0].1
    }

    pub fn region(&self) -> &str {
        REGION
    }

    /// The environment that points a client here.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("S3VOL_URL", format!("s3://{}", self.bucket())),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.access_key().to_owned()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key().to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Has a program use this server, over plain HTTP.
    pub fn used_by(&self, command: &mut Command) {
        for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.env_remove(name);
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true").envs(self.env());
    }

    // --- The log ---

    /// Every request since the start or the last [`Self::clear_log`], in order of arrival.
    pub fn log(&self) -> Vec<Logged> {
        self.state.log.lock().clone()
    }

    pub fn clear_log(&self) {
        self.state.log.lock().clear();
    }

    pub fn counts(&self) -> Counts {
        fault::count(&self.state.log.lock())
    }

    /// The log, which begins anew.
    pub fn take_log(&self) -> Vec<Logged> {
        std::mem::take(&mut *self.state.log.lock())
    }

    pub fn count(&self, op: Op) -> u64 {
        self.counts().get(&op).copied().unwrap_or(0)
    }

    // --- Faults ---

    pub fn fault(&self, rule: Rule) {
        self.state.plan.lock().add(rule);
    }

    pub fn clear_faults(&self) {
        self.state.plan.lock().clear();
    }

    /// Rules that did not meet all their requests yet.
    pub fn faults_left(&self) -> usize {
        self.state.plan.lock().left()
    }

    /// Requests that wait for [`Self::release`] now.
    pub fn held(&self) -> u64 {
        self.state.held.load(Ordering::SeqCst)
    }

    /// Lets all held requests go on.
    pub fn release(&self) {
        self.state.released.send_modify(|times| *times += 1);
    }

    /// Every request waits this long before it is handled.
    pub fn set_latency(&self, latency: Duration) {
        self.state.latency.store(latency.as_micros() as u64, Ordering::Relaxed);
    }

    /// Whatever this account wants to change is refused with 403.
    pub fn refuse_writes_of(&self, access_key: &str) {
        self.state.readers.lock().insert(access_key.to_owned());
    }

    /// From now on only these access keys may use a bucket, which is made if it is not there.
    pub fn only(&self, bucket: &str, access_keys: &[&str]) {
        self.state.buckets.lock().live.entry(bucket.to_owned()).or_default();
        let owners = access_keys.iter().map(|key| (*key).to_owned()).collect();
        self.state.owners.lock().insert(bucket.to_owned(), owners);
    }

    /// The body of an object in any bucket.
    pub fn body_in(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let buckets = self.state.buckets.lock();
        buckets.live.get(bucket)?.objects.get(key).map(|object| object.body.clone())
    }

    /// The keys of all objects in any bucket.
    pub fn keys_in(&self, bucket: &str) -> Vec<String> {
        let buckets = self.state.buckets.lock();
        buckets.live.get(bucket).map_or_else(Vec::new, |b| b.objects.keys().cloned().collect())
    }

    /// Only tags have rights of their own here: `s3:GetObjectTagging` and `s3:PutObjectTagging`.
    pub fn deny(&self, right: &str) {
        self.state.denied.lock().insert(right.to_owned());
    }

    /// Copies on the server need no right to read tags from now on; AWS wants it for them, others do not.
    pub fn copy_any_tags(&self) {
        self.state.copies_any_tags.store(true, Ordering::Relaxed);
    }

    pub fn allow_all(&self) {
        self.state.denied.lock().clear();
    }

    /// From now on whoever asks must be willing to pay.
    pub fn set_requester_pays(&self, pays: bool) {
        self.state.requester_pays.store(pays, Ordering::Relaxed);
    }

    /// The server's clock runs this many seconds ahead of the host's.
    pub fn set_clock_offset(&self, secs: i64) {
        self.state.clock_offset.store(secs, Ordering::Relaxed);
    }

    /// The bucket does not exist any more, until [`Self::restore_bucket`].
    pub fn remove_bucket(&self) {
        let mut buckets = self.state.buckets.lock();
        if let Some(bucket) = buckets.live.remove(self.bucket()) {
            buckets.removed.insert(self.bucket().to_owned(), bucket);
        }
    }

    pub fn restore_bucket(&self) {
        let mut buckets = self.state.buckets.lock();
        if let Some(bucket) = buckets.removed.remove(self.bucket()) {
            buckets.live.insert(self.bucket().to_owned(), bucket);
        }
    }

    /// From now on it speaks as Ceph RGW 16: `If-Match` on PUT holds only without quotes; conditions on
    /// DELETE, COPY and the completion of an upload are overlooked without a word; who loses a race of
    /// creations is answered 500.
    pub fn speak_as_gateway(&self) {
        self.state.gateway.store(true, Ordering::Relaxed);
    }

    /// From now on it speaks as S3 does.
    pub fn speak_as_s3(&self) {
        self.state.gateway.store(false, Ordering::Relaxed);
    }

    /// From now on the keys of a page are not in the order of keys, as where they stand for others.
    pub fn list_in_disorder(&self) {
        self.state.disorder.store(true, Ordering::Relaxed);
    }

    // --- The bucket itself, without HTTP and without a log entry ---

    /// The objects below a prefix, in key order.
    pub fn objects(&self, prefix: &str) -> Vec<(String, Object)> {
        self.in_bucket(|b| {
            b.objects
                .range(prefix.to_owned()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, object)| (key.clone(), object.clone()))
                .collect()
        })
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects(prefix).into_iter().map(|(key, _)| key).collect()
    }

    /// How many files lie below a prefix, and their bytes: neither directories nor anything of a volume's state.
    pub fn files(&self, prefix: &str) -> (usize, usize) {
        let is_file = |key: &str| !key.ends_with('/') && Area::of(key) == Area::Object;
        self.in_bucket(|b| {
            let below = b.objects.range(prefix.to_owned()..);
            below
                .take_while(|(key, _)| key.starts_with(prefix))
                .filter(|(key, _)| is_file(key))
                .fold((0, 0), |(files, bytes), (_, object)| (files + 1, bytes + object.body.len()))
        })
    }

    pub fn get(&self, key: &str) -> Option<Object> {
        self.in_bucket(|b| b.objects.get(key).cloned())
    }

    /// Writes an object as another program would.
    pub fn put_foreign(&self, key: &str, body: impl Into<Bytes>, metadata: &[(&str, &str)]) {
        let body = body.into();
        let object = Object {
            etag: model::etag_of(&body),
            body,
            modified: self.state.now_secs(),
            metadata: metadata
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect::<BTreeMap<_, _>>(),
            carried: Carried::default(),
        };
        self.in_bucket(|b| b.objects.insert(key.to_owned(), object));
    }

    /// Changes what an object carries as another program would, which leaves its ETag as it is.
    pub fn dress_foreign(&self, key: &str, change: impl FnOnce(&mut Carried)) {
        self.in_bucket(|b| b.objects.get_mut(key).map(|object| change(&mut object.carried)))
            .expect("there is such an object");
    }

    /// Changes an object behind everybody's back, as a store that is broken would: its ETag and its time stay
    /// unless they are what is changed.
    pub fn spoil(&self, key: &str, change: impl FnOnce(&mut Object)) {
        self.in_bucket(|b| b.objects.get_mut(key).map(change)).expect("there is such an object");
    }

    /// Puts an object back as it was, or elsewhere, with all that it bore.
    pub fn restore(&self, key: &str, object: Object) {
        let modified = self.state.now_secs();
        self.in_bucket(|b| b.objects.insert(key.to_owned(), Object { modified, ..object }));
    }

    /// Makes the bucket hold exactly these.
    pub fn replace_all(&self, objects: Vec<(String, Object)>) {
        self.in_bucket(|b| {
            b.objects = objects.into_iter().collect();
            b.uploads.clear();
        });
    }

    /// Deletes an object as another program would; whether there was one.
    pub fn delete_foreign(&self, key: &str) -> bool {
        self.in_bucket(|b| b.objects.remove(key).is_some())
    }

    /// Multipart uploads that are neither completed nor aborted, as (key, upload id).
    pub fn uploads(&self) -> Vec<(String, String)> {
        self.in_bucket(|b| b.uploads.iter().map(|(id, u)| (u.key.clone(), id.clone())).collect())
    }

    fn in_bucket<R>(&self, f: impl FnOnce(&mut model::Bucket) -> R) -> R {
        let mut buckets = self.state.buckets.lock();
        let state::Buckets { live, removed } = &mut *buckets;
        let bucket = live.get_mut(self.bucket()).or_else(|| removed.get_mut(self.bucket()));
        f(bucket.expect("the server's own bucket was deleted by a client"))
    }
}

impl Drop for TestS3 {
    fn drop(&mut self) {
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            // Not a blocking shutdown: the handle may be dropped inside another runtime.
            runtime.shutdown_background();
        }
    }
}
