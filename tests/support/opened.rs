//! A volume opened in the test's own process, as a worker opens it; nobody hears of its changes.

use std::sync::Once;
use std::time::Duration;

use s3vol::clock::Deadline;
use s3vol::config::VolumeOptions;
use s3vol::lease::LeaseState;
use s3vol::worker::{Mounted, Successor, WorkerSpec, open};

use super::s3server::{ACCESS_KEY, SECRET_KEY, TestS3};

const PATIENCE: Duration = Duration::from_secs(30);

/// Gives this process the keys that every server has. To be called before any store is opened.
pub fn credentials() {
    static ONCE: Once = Once::new();
    // SAFETY: whoever comes first does this alone (the others wait), before any store is opened; nothing else in
    // this process reads the environment by then, or it reads other names.
    ONCE.call_once(|| unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        std::env::set_var("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        std::env::set_var("AWS_EC2_METADATA_DISABLED", "true");
        for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            std::env::remove_var(name);
        }
    });
}

/// Of a volume in the bucket of `server`: files and state below these prefixes.
pub fn options(server: &TestS3, files: &str, state: &str) -> VolumeOptions {
    VolumeOptions {
        url: format!("s3://{}/{files}", server.bucket()),
        state_url: format!("s3://{}/{state}", server.bucket()),
        endpoint: Some(server.endpoint()),
        region: Some(server.region().to_owned()),
        path_style: Some(true),
        settle_after: Duration::ZERO,
        ..VolumeOptions::default()
    }
}

pub async fn opened(spec: &WorkerSpec) -> Result<Mounted, String> {
    // In a box: a test has 2 MiB of stack.
    let mounted = Box::pin(open(spec, Successor::No)).await;
    let mut mounted = mounted.map_err(|e| format!("open: {e}"))?;
    let (_, nothing) = s3vol::settle::changes();
    let mut changes = std::mem::replace(&mut mounted.changes, nothing);
    tokio::spawn(async move { while changes.recv().await.is_some() {} });
    Ok(mounted)
}

/// All that was changed is in the bucket's records.
pub async fn commit(mounted: &Mounted) -> Result<(), String> {
    let volume = &mounted.volume;
    volume.commit(volume.dirty_inodes()).await.map_err(|e| format!("commit: {e}"))?;
    let _receipt = volume.meta.flush(PATIENCE).await.map_err(|e| format!("flush: {e}"))?;
    Ok(())
}

/// As an unmount that has no time to settle.
pub async fn close(mounted: Mounted) -> Result<(), String> {
    commit(&mounted).await?;
    let deadline = Deadline::after(PATIENCE);
    mounted.volume.meta.engine.close(deadline).await.map_err(|e| format!("close: {e}"))?;
    release(&mounted).await
}

/// The next one need not wait for its lease to run out.
pub async fn release(mounted: &Mounted) -> Result<(), String> {
    let deadline = Deadline::after(PATIENCE);
    let released = mounted.keeper.set_state(LeaseState::Released, None, deadline).await;
    released.map_err(|e| format!("release: {e}"))
}
