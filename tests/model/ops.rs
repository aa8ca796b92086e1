//! The operations, and how often each comes.

use proptest::prelude::*;

/// One step. Small numbers are taken modulo what is there.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        dir: u8,
        name: u8,
    },
    Mkdir {
        dir: u8,
        name: u8,
    },
    Symlink {
        dir: u8,
        name: u8,
        target: u8,
    },
    Mknod {
        dir: u8,
        name: u8,
        device: bool,
    },
    /// Any kind of inode with any mode bits.
    Make {
        dir: u8,
        name: u8,
        kind: u8,
        perm: u16,
    },
    /// Somebody else does what follows.
    As {
        who: u8,
        umask: u16,
    },
    Write {
        file: u8,
        at: u32,
        len: u32,
        seed: u8,
    },
    Append {
        file: u8,
        len: u32,
        seed: u8,
    },
    Truncate {
        file: u8,
        size: u32,
    },
    Punch {
        file: u8,
        at: u32,
        len: u32,
    },
    Zero {
        file: u8,
        at: u32,
        len: u32,
        keep: bool,
    },
    Allocate {
        file: u8,
        at: u32,
        len: u32,
        keep: bool,
    },
    /// SEEK_HOLE or SEEK_DATA.
    Seek {
        file: u8,
        at: u32,
        hole: bool,
    },
    CopyRange {
        from: u8,
        at: u32,
        to: u8,
        to_at: u32,
        len: u32,
    },
    /// O_TRUNC, one write, close.
    Rewrite {
        file: u8,
        len: u32,
        seed: u8,
    },
    Read {
        file: u8,
        at: u32,
        len: u32,
    },
    Rename {
        entry: u8,
        dir: u8,
        name: u8,
        how: u8,
    },
    RenameOnto {
        entry: u8,
        other: u8,
        how: u8,
    },
    Link {
        entry: u8,
        dir: u8,
        name: u8,
    },
    Unlink {
        entry: u8,
    },
    Rmdir {
        entry: u8,
    },
    Chmod {
        entry: u8,
        perm: u16,
    },
    Chown {
        entry: u8,
        uid: u8,
        gid: u8,
    },
    Utimens {
        entry: u8,
        secs: u32,
        nanos: u32,
    },
    /// Both times become now.
    Touch {
        entry: u8,
    },
    /// `how`: 0 sets, 1 makes a new one, 2 replaces one.
    XattrHow {
        entry: u8,
        name: u8,
        len: u8,
        how: u8,
    },
    SetXattr {
        entry: u8,
        name: u8,
        len: u8,
    },
    RemoveXattr {
        entry: u8,
        name: u8,
    },
    Open {
        file: u8,
    },
    Close {
        handle: u8,
    },
    Fsync {
        file: u8,
    },
    /// Opens a directory, which may then lose its name.
    OpenDir {
        dir: u8,
    },
    /// Makes a file in an open directory.
    CreateIn {
        handle: u8,
        name: u8,
    },
    CloseDir {
        handle: u8,
    },
    ReadDir {
        dir: u8,
        page: u8,
    },
    Settle,
    Commit,
    Evict,
    Compare,
    Reopen {
        empty: bool,
    },
    Crash {
        empty: bool,
    },
    PutNew {
        dir: u8,
        name: u8,
        len: u32,
        seed: u8,
    },
    /// A new object below a directory that does not exist yet.
    PutBelow {
        dir: u8,
        name: u8,
        len: u32,
        seed: u8,
    },
    PutReplaced {
        file: u8,
        len: u32,
        seed: u8,
    },
    DeleteObject {
        entry: u8,
    },
    /// Changed here and replaced there.
    BothChanged {
        file: u8,
        len: u32,
        seed: u8,
        commit: bool,
    },
    /// Changed here and deleted there.
    ChangedAndDeleted {
        file: u8,
        len: u32,
        seed: u8,
        commit: bool,
    },
}

impl Op {
    /// Whether others do it, to the bucket.
    pub fn is_outside(&self) -> bool {
        matches!(
            self,
            Op::PutNew { .. }
                | Op::PutBelow { .. }
                | Op::PutReplaced { .. }
                | Op::DeleteObject { .. }
                | Op::BothChanged { .. }
                | Op::ChangedAndDeleted { .. }
        )
    }
}

/// Which operations a test draws from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    Alone,
    Shared,
}

/// Offsets and lengths: mostly small and odd, sometimes at the borders of inline blocks, sometimes
/// more than travels inside a batch.
fn extent() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..300_u32,
        4 => 0..40_000_u32,
        1 => (0..5_u32).prop_map(|n| n * 16384),
        1 => 130_000..300_000_u32,
    ]
}

fn name() -> impl Strategy<Value = u8> {
    prop_oneof![24 => 0..4_u8, 3 => 0..8_u8, 1 => 8..13_u8]
}

fn step(mix: Mix) -> impl Strategy<Value = Op> {
    use Op::*;
    let n = any::<u8>;
    let how = || prop_oneof![3 => Just(0_u8), 1 => Just(1_u8), 2 => Just(2_u8)];
    let alone = prop_oneof![
        12 => (n(), name()).prop_map(|(dir, name)| Create { dir, name }),
        6 => (n(), name()).prop_map(|(dir, name)| Mkdir { dir, name }),
        2 => (n(), name(), n()).prop_map(|(dir, name, target)| Symlink { dir, name, target }),
        1 => (n(), name(), any::<bool>()).prop_map(|(dir, name, device)| Mknod { dir, name, device }),
        4 => (n(), name(), 0..6_u8, 0..0o10000_u16)
            .prop_map(|(dir, name, kind, perm)| Make { dir, name, kind, perm }),
        4 => (0..6_u8, 0..4_usize)
            .prop_map(|(who, umask)| As { who, umask: [0, 0o22, 0o77, 0o27][umask] }),
        10 => (n(), extent(), extent(), n())
            .prop_map(|(file, at, len, seed)| Write { file, at, len, seed }),
        3 => (n(), extent(), n()).prop_map(|(file, len, seed)| Append { file, len, seed }),
        4 => (n(), extent()).prop_map(|(file, size)| Truncate { file, size }),
        2 => (n(), extent(), extent()).prop_map(|(file, at, len)| Punch { file, at, len }),
        1 => (n(), extent(), extent(), any::<bool>())
            .prop_map(|(file, at, len, keep)| Zero { file, at, len, keep }),
        1 => (n(), extent(), extent(), any::<bool>())
            .prop_map(|(file, at, len, keep)| Allocate { file, at, len, keep }),
        2 => (n(), extent(), any::<bool>()).prop_map(|(file, at, hole)| Seek { file, at, hole }),
        2 => (n(), extent(), n(), extent(), extent())
            .prop_map(|(from, at, to, to_at, len)| CopyRange { from, at, to, to_at, len }),
        4 => (n(), extent(), n()).prop_map(|(file, len, seed)| Rewrite { file, len, seed }),
        4 => (n(), extent(), extent()).prop_map(|(file, at, len)| Read { file, at, len }),
        8 => (n(), n(), name(), how())
            .prop_map(|(entry, dir, name, how)| Rename { entry, dir, name, how }),
        6 => (n(), n(), how()).prop_map(|(entry, other, how)| RenameOnto { entry, other, how }),
        4 => (n(), n(), name()).prop_map(|(entry, dir, name)| Link { entry, dir, name }),
        6 => n().prop_map(|entry| Unlink { entry }),
        3 => n().prop_map(|entry| Rmdir { entry }),
        3 => (n(), 0..0o10000_u16).prop_map(|(entry, perm)| Chmod { entry, perm }),
        1 => (n(), n(), n()).prop_map(|(entry, uid, gid)| Chown { entry, uid, gid }),
        2 => (n(), any::<u32>(), 0..1_000_000_000_u32)
            .prop_map(|(entry, secs, nanos)| Utimens { entry, secs, nanos }),
        1 => n().prop_map(|entry| Touch { entry }),
        1 => (n(), 0..6_u8, n(), 0..3_u8)
            .prop_map(|(entry, name, len, how)| XattrHow { entry, name, len, how }),
        2 => (n(), 0..6_u8, n()).prop_map(|(entry, name, len)| SetXattr { entry, name, len }),
        1 => (n(), 0..6_u8).prop_map(|(entry, name)| RemoveXattr { entry, name }),
        2 => n().prop_map(|file| Open { file }),
        2 => n().prop_map(|handle| Close { handle }),
        2 => n().prop_map(|file| Fsync { file }),
        1 => n().prop_map(|dir| OpenDir { dir }),
        1 => (n(), name()).prop_map(|(handle, name)| CreateIn { handle, name }),
        1 => n().prop_map(|handle| CloseDir { handle }),
        2 => (n(), 1..5_u8).prop_map(|(dir, page)| ReadDir { dir, page }),
        10 => Just(Settle),
        3 => Just(Commit),
        4 => Just(Evict),
        1 => Just(Compare),
        1 => any::<bool>().prop_map(|empty| Reopen { empty }),
        3 => any::<bool>().prop_map(|empty| Crash { empty }),
    ];
    let others = prop_oneof![
        3 => (n(), name(), extent(), n())
            .prop_map(|(dir, name, len, seed)| PutNew { dir, name, len, seed }),
        1 => (n(), name(), extent(), n())
            .prop_map(|(dir, name, len, seed)| PutBelow { dir, name, len, seed }),
        4 => (n(), extent(), n()).prop_map(|(file, len, seed)| PutReplaced { file, len, seed }),
        3 => n().prop_map(|entry| DeleteObject { entry }),
        2 => (n(), extent(), n(), any::<bool>())
            .prop_map(|(file, len, seed, commit)| BothChanged { file, len, seed, commit }),
        2 => (n(), extent(), n(), any::<bool>())
            .prop_map(|(file, len, seed, commit)| ChangedAndDeleted { file, len, seed, commit }),
    ];
    match mix {
        Mix::Alone => alone.boxed(),
        Mix::Shared => prop_oneof![5 => alone, 1 => others].boxed(),
    }
}

/// What one test runs on one volume.
pub fn sequence(mix: Mix) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(step(mix), 1..60)
}

/// A failing sequence, to be pasted into `regressions.rs`.
pub fn as_source(ops: &[Op]) -> String {
    let lines: Vec<String> = ops.iter().map(|op| format!("    {op:?},")).collect();
    format!("&[\n{}\n]", lines.join("\n"))
}

/// Deterministic bytes, different for every seed and place.
pub fn bytes(seed: u8, len: u32) -> Vec<u8> {
    (0..len)
        .map(|i| {
            let x = (i.wrapping_add(u32::from(seed) << 20)).wrapping_mul(0x9e37_79b1);
            (x >> 24) as u8 | 1
        })
        .collect()
}

/// Names from a small pool, so that operations meet: plain ones, some that no key can hold, and
/// some as long as a name can be.
pub fn name_of(index: u8) -> Vec<u8> {
    const NAMES: [&[u8]; 13] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b"new\nline",
        b"\xff\xfe",
        b".s3vol",
        "ä b".as_bytes(),
        &[b'l'; 255],
        // Escaped, three bytes each: two of them below each other fit no key.
        &[0x01; 255],
        b".s3vol%41",
        b"a%2Fb?*#",
        "\u{85}\u{202e}".as_bytes(),
    ];
    NAMES[usize::from(index) % NAMES.len()].to_vec()
}

/// Whom `As` means: user, group, supplementary groups.
pub fn user(index: u8) -> (u32, u32, &'static [u32]) {
    match index {
        3 => (1001, 1001, &[1001, 2000]),
        4 => (1002, 1002, &[2000]),
        5 => (1003, 2000, &[]),
        _ => (0, 0, &[]),
    }
}

/// Attributes of every kind; one that the kernel itself takes away when the file is written to.
pub fn xattr_of(index: u8, len: u8) -> (&'static str, Vec<u8>) {
    const NAMES: [&str; 6] =
        ["user.x0", "user.x1", "user.x2", "trusted.x", "security.x", "security.capability"];
    let name = NAMES[usize::from(index) % NAMES.len()];
    let value = match name {
        // cap_net_bind_service=ep, in the second form of the attribute.
        "security.capability" => {
            [0x0200_0001_u32, 1 << 10, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect()
        }
        _ => bytes(len, u32::from(len)),
    };
    (name, value)
}
