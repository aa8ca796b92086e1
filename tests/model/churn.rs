//! A tree in which many names come and go settles when it is quiet, or when the volume is given back.

use std::sync::Arc;
use std::time::Duration;

use s3vol::types::{Caller, Ino};
use tokio_util::sync::CancellationToken;

use crate::runtime;
use crate::support::named;
use crate::world::{World, server};

const FILES: usize = 1100;

#[test]
fn an_archive_being_unpacked_waits_and_an_unmount_does_not() {
    runtime().block_on(async {
        let mut world = World::new(Duration::from_secs(3600)).await;
        let dir =
            world.fs().mkdir(Caller::ROOT, Ino::ROOT, named("d"), 0o755).await.expect("a dir");
        for number in 0..FILES {
            let file = named(&format!("f{number}"));
            let mode = libc::S_IFREG | 0o644;
            world.fs().mknod(Caller::ROOT, dir.ino, file, mode, 0).await.expect("a file");
        }
        let mode = libc::S_IFREG | 0o644;
        world.fs().mknod(Caller::ROOT, Ino::ROOT, named("beside"), mode, 0).await.expect("a file");
        let stop = CancellationToken::new();
        let settling = tokio::spawn(Arc::clone(&world.mounted().settler).run(stop.clone()));
        let key = format!("{}beside", world.prefix);
        let other_rests = async {
            while server().get(&key).is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), other_rests).await;
        waited.expect("what lies beside the busy tree settles");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let busy = format!("{}d/", world.prefix);
        let resting = server().keys(&busy).len();
        assert!(resting <= 1, "{resting} objects of a tree that is not quiet");
        assert_eq!(world.settle().await.expect("settling"), 0);
        // The marker of the directory is one more.
        assert_eq!(server().keys(&busy).len(), FILES + 1);
        stop.cancel();
        settling.await.expect("its end");
        world.give_up();
    });
}
