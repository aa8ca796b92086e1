//! A key `a` beside keys `a/…`: the directory has the name, the object shows under another one.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use s3vol::fs::{FileHandle, Fs, RenameMode, SetAttr, Show, XattrMode};
use s3vol::types::{Caller, FileKind, Ino};

use crate::runtime;
use crate::support::named;
use crate::world::{World, server};

const ASIDE: &str = "a.s3vol-conflict-object";
const NONE: FileHandle = FileHandle(0);

async fn names(fs: &Fs, dir: Ino) -> BTreeSet<String> {
    let fh = fs.opendir(Caller::ROOT, dir).await.expect("opendir");
    let entries = fs.readdir(dir, fh, 0, 1000, Show::Attributes).await.expect("readdir");
    fs.releasedir(Caller::ROOT, dir, fh).await.expect("releasedir");
    let names = entries.into_iter().map(|entry| String::from_utf8(entry.name).expect("text"));
    names.filter(|name| name != "." && name != "..").collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn find(fs: &Fs, path: &str) -> Ino {
    let mut at = Ino::ROOT;
    for part in path.split('/') {
        at = fs.lookup(at, named(part)).await.unwrap_or_else(|e| panic!("{path}: {e:?}")).ino;
    }
    at
}

async fn read(fs: &Fs, path: &str) -> String {
    let data = fs.read(find(fs, path).await, NONE, 0, 1000).await.expect("a read");
    String::from_utf8(data.to_vec()).expect("text")
}

async fn create(fs: &Fs, at: &str, text: &str) {
    let made = fs.create(Caller::ROOT, Ino::ROOT, named(at), 0o644, libc::O_RDWR).await;
    let (attr, opened) = made.expect("a file");
    let data = Bytes::from(text.as_bytes().to_vec());
    fs.write(attr.ino, opened.fh, 0, data, false).await.expect("a write");
    fs.release(attr.ino, opened.fh).await.expect("a close");
}

async fn settled(world: &World) {
    assert_eq!(world.settle().await.expect("settling"), 0, "{}", world.settle_report().await);
}

fn object(world: &World, key: &str) -> Option<String> {
    let found = server().get(&format!("{}{key}", world.prefix))?;
    Some(String::from_utf8(found.body.to_vec()).expect("text"))
}

fn put(world: &World, key: &str, text: &str) {
    server().put_foreign(&format!("{}{key}", world.prefix), text.to_owned(), &[]);
}

#[test]
fn the_directory_has_the_name_and_the_object_shows_beside_it() {
    runtime().block_on(async {
        let mut world = World::new(Duration::ZERO).await;
        put(&world, "a", "the object");
        put(&world, "a/b", "below");
        assert_eq!(names(world.fs(), Ino::ROOT).await, set(&["a", ASIDE]));
        assert_eq!(read(world.fs(), "a/b").await, "below");
        assert_eq!(read(world.fs(), ASIDE).await, "the object");
        settled(&world).await;
        world.reopen(true).await.expect("another mount");
        assert_eq!(read(world.fs(), ASIDE).await, "the object");
        assert_eq!(names(world.fs(), Ino::ROOT).await, set(&["a", ASIDE]));
        settled(&world).await;
        assert_eq!(object(&world, "a").as_deref(), Some("the object"), "it is never deleted");
        assert_eq!(object(&world, ASIDE), None);

        // What changes it changes the object where it lies.
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        let ino = find(world.fs(), ASIDE).await;
        world.fs().setattr(Caller::ROOT, ino, mode).await.expect("a chmod");
        settled(&world).await;
        assert_eq!(object(&world, "a").as_deref(), Some("the object"));
        assert_eq!(object(&world, ASIDE), None);

        // Replaced and removed by others like any file.
        put(&world, "a", "another");
        assert_eq!(read(world.fs(), ASIDE).await, "another");
        server().delete_foreign(&format!("{}a", world.prefix));
        assert_eq!(names(world.fs(), Ino::ROOT).await, set(&["a"]));
        world.give_up();
    });
}

#[test]
fn a_file_makes_way_for_a_directory_from_outside() {
    runtime().block_on(async {
        let mut world = World::new(Duration::ZERO).await;
        create(world.fs(), "a", "ours").await;
        settled(&world).await;
        put(&world, "a/b", "theirs");
        assert_eq!(names(world.fs(), Ino::ROOT).await, set(&["a", ASIDE]));
        assert_eq!(read(world.fs(), ASIDE).await, "ours");
        assert_eq!(read(world.fs(), "a/b").await, "theirs");
        settled(&world).await;
        assert_eq!(object(&world, "a").as_deref(), Some("ours"));

        // The directory goes: the object has its name again.
        server().delete_foreign(&format!("{}a/b", world.prefix));
        for _ in 0..2 {
            names(world.fs(), Ino::ROOT).await;
        }
        assert_eq!(names(world.fs(), Ino::ROOT).await, set(&["a"]));
        assert_eq!(read(world.fs(), "a").await, "ours");
        settled(&world).await;
        assert_eq!(object(&world, "a").as_deref(), Some("ours"));
        world.give_up();
    });
}

#[test]
fn renaming_the_object_shown_beside_moves_it() {
    runtime().block_on(async {
        let mut world = World::new(Duration::ZERO).await;
        put(&world, "a", "the object");
        put(&world, "a/b", "below");
        let fs = world.fs();
        assert_eq!(read(fs, ASIDE).await, "the object");
        let root = Ino::ROOT;
        let moved =
            fs.rename(Caller::ROOT, root, named(ASIDE), root, named("c"), RenameMode::Replace);
        moved.await.expect("a rename");
        settled(&world).await;
        assert_eq!(object(&world, "c").as_deref(), Some("the object"));
        assert_eq!(object(&world, "a"), None);
        assert_eq!(names(world.fs(), root).await, set(&["a", "c"]));

        world.give_up();
    });
}

#[test]
fn a_file_may_take_the_name_of_the_directory() {
    runtime().block_on(async {
        let mut world = World::new(Duration::from_secs(3600)).await;
        let root = Ino::ROOT;
        put(&world, "a", "the object");
        put(&world, "a/b", "below");
        assert_eq!(read(world.fs(), ASIDE).await, "the object");
        let moved = world.fs().rename(
            Caller::ROOT,
            root,
            named("a"),
            root,
            named("d"),
            RenameMode::Replace,
        );
        moved.await.expect("a rename");
        create(world.fs(), "a", "a file").await;
        settled(&world).await;
        assert_eq!(names(world.fs(), root).await, set(&["a", ASIDE, "d"]));
        assert_eq!(object(&world, "a").as_deref(), Some("a file"));
        assert_eq!(object(&world, ASIDE).as_deref(), Some("the object"));
        assert_eq!(read(world.fs(), ASIDE).await, "the object");
        assert_eq!(read(world.fs(), "d/b").await, "below");
        world.give_up();
    });
}

#[test]
fn our_own_leftovers_do_not_show_beside() {
    runtime().block_on(async {
        let mut world = World::new(Duration::ZERO).await;
        let (fs, root) = (world.fs(), Ino::ROOT);
        create(fs, "a", "a file").await;
        settled(&world).await;
        fs.unlink(Caller::ROOT, root, named("a")).await.expect("an unlink");
        let dir = fs.mkdir(Caller::ROOT, root, named("a"), 0o755).await.expect("a directory").ino;
        let made = fs.create(Caller::ROOT, dir, named("x"), 0o644, libc::O_RDWR).await;
        let (attr, opened) = made.expect("a file");
        fs.release(attr.ino, opened.fh).await.expect("a close");
        assert!(object(&world, "a").is_some(), "not tidied yet");
        assert_eq!(names(fs, root).await, set(&["a"]));
        settled(&world).await;
        assert_eq!(names(fs, root).await, set(&["a"]));
        assert_eq!(object(&world, "a"), None);

        // And back: a file where our directory was, its objects still to be tidied.
        fs.unlink(Caller::ROOT, dir, named("x")).await.expect("an unlink");
        fs.rmdir(Caller::ROOT, root, named("a")).await.expect("an rmdir");
        create(fs, "a", "again").await;
        assert!(object(&world, "a/x").is_some(), "not tidied yet");
        assert_eq!(names(fs, root).await, set(&["a"]));
        assert_eq!(read(fs, "a").await, "again");
        settled(&world).await;
        assert_eq!(object(&world, "a").as_deref(), Some("again"));
        assert_eq!(object(&world, "a/x"), None);
        assert_eq!(names(fs, root).await, set(&["a"]));
        world.give_up();
    });
}

#[test]
fn a_key_that_returns_has_the_attributes_it_had() {
    runtime().block_on(async {
        let mut world = World::new(Duration::ZERO).await;
        put(&world, "f", "first");
        put(&world, "d/x", "below");
        let root = Ino::ROOT;
        for (path, perm) in [("f", 0o640), ("d", 0o711)] {
            let ino = find(world.fs(), path).await;
            let change =
                SetAttr { mode: Some(perm), uid: Some(7), gid: Some(8), ..SetAttr::default() };
            world.fs().setattr(Caller::ROOT, ino, change).await.expect("a chmod");
            let (name, value) = (Bytes::from_static(b"user.x"), Bytes::from_static(b"kept"));
            let set = world.fs().setxattr(Caller::ROOT, ino, name, value, XattrMode::Any).await;
            set.expect("an attribute");
        }
        settled(&world).await;
        for key in ["f", "d/x", "d/"] {
            server().delete_foreign(&format!("{}{key}", world.prefix));
        }
        for _ in 0..2 {
            names(world.fs(), root).await;
        }
        assert_eq!(names(world.fs(), root).await, set(&[]));
        world.reopen(true).await.expect("another mount");
        put(&world, "f", "it is back");
        put(&world, "d/y", "so is this");
        assert_eq!(names(world.fs(), root).await, set(&["d", "f"]));
        assert_eq!(read(world.fs(), "f").await, "it is back");
        for (path, perm, kind) in [("f", 0o640, FileKind::File), ("d", 0o711, FileKind::Dir)] {
            let attr = world.fs().lookup(root, named(path)).await.expect("it");
            assert_eq!((attr.kind, attr.perm, attr.uid, attr.gid), (kind, perm, 7, 8), "{path}");
            let value = world.fs().getxattr(attr.ino, Bytes::from_static(b"user.x")).await;
            assert_eq!(value.expect("it is kept"), "kept", "{path}");
        }
        world.give_up();
    });
}
