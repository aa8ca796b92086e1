//! What a program may ask for, which of it it chooses, and what that changes.

use bytes::{Bytes, BytesMut};
use s3vol::types::{FileKind, Timestamp};

use crate::model::{History, Node, State};
use crate::random::Random;
use crate::sim::sim;

/// What a client may do; chosen so that it succeeds.
#[derive(Debug, Clone)]
pub enum Op {
    Create { path: String },
    Write { path: String, at: u64, bytes: Bytes },
    Truncate { path: String, size: u64 },
    Punch { path: String, at: u64, len: u64 },
    Mkdir { path: String },
    Remove { path: String },
    Rename { from: String, to: String },
    Exchange { one: String, other: String },
    Link { from: String, to: String },
    Symlink { path: String, target: String },
    Chmod { path: String, perm: u32 },
    Chown { path: String, uid: u32 },
    Utimes { path: String, time: Timestamp },
    Sync { path: String },
    Read { path: String },
}

pub fn short(op: &Op) -> String {
    match op {
        Op::Write { path, at, bytes } => format!("write {path} {at}+{}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// Chooses an operation that the state allows.
pub fn choose(random: &Random, state: &State) -> Op {
    let of_kind = |kind: FileKind| -> Vec<String> {
        let named = state.names.iter().filter(|(_, id)| state.nodes[*id].kind == kind);
        named.map(|(name, _)| name.clone()).collect()
    };
    let (files, dirs) = (of_kind(FileKind::File), of_kind(FileKind::Dir));
    let free = || -> String {
        let mut places = dirs.clone();
        places.push(String::new());
        let place = random.of(&places).clone();
        let name = (*random.of(&["a", "b", "c", "d"])).to_owned();
        if place.is_empty() { name } else { format!("{place}/{name}") }
    };
    for _ in 0..20 {
        let path = free();
        let taken = state.names.contains_key(&path);
        let file = || (!files.is_empty()).then(|| random.of(&files).clone());
        let any = || {
            let all: Vec<&String> = state.names.keys().collect();
            (!all.is_empty()).then(|| (*random.of(&all)).clone())
        };
        let op = match random.below(100) {
            0..14 if !taken => Some(Op::Create { path }),
            14..40 if sim().large.get() > 0 && random.chance(300) => file().map(large(random)),
            14..40 => file().map(|path| {
                let at = match random.below(3) {
                    0 => 0,
                    _ => random.below(6000),
                };
                let len = match random.below(40) {
                    0 => random.between(140_000, 200_000),
                    1..6 => random.between(10_000, 40_000),
                    _ => random.between(1, 3000),
                };
                let mut bytes = vec![0; len as usize];
                random.fill(&mut bytes);
                Op::Write { path, at, bytes: bytes.into() }
            }),
            40..44 => file().map(|path| Op::Truncate { path, size: random.below(5000) }),
            44..46 => file().map(|path| Op::Punch {
                path,
                at: random.below(5000),
                len: random.between(1, 4000),
            }),
            46..51 if !taken && path.len() < 8 => Some(Op::Mkdir { path }),
            51..58 => {
                let gone = |path: &String| {
                    state.node(path).kind != FileKind::Dir || state.is_empty_dir(path)
                };
                any().filter(gone).map(|path| Op::Remove { path })
            }
            58..73 => any().and_then(|from| {
                let inside = path.starts_with(&format!("{from}/")) || path == from;
                let fits = !taken || {
                    let (old, new) = (state.node(&path), state.node(&from));
                    let same = state.names[&path] == state.names[&from];
                    !same
                        && (old.kind == FileKind::Dir) == (new.kind == FileKind::Dir)
                        && (old.kind != FileKind::Dir || state.is_empty_dir(&path))
                };
                let deep = path.len() + from.len() > 14;
                (!inside && fits && !deep).then(|| Op::Rename { from, to: path.clone() })
            }),
            73..75 => any().zip(any()).and_then(|(one, other)| {
                let nested =
                    one.starts_with(&format!("{other}/")) || other.starts_with(&format!("{one}/"));
                let same = state.names[&one] == state.names[&other];
                (!nested && !same).then(|| Op::Exchange { one, other })
            }),
            75..78 if !taken => file().map(|from| Op::Link { from, to: path }),
            78..80 if !taken => {
                Some(Op::Symlink { path, target: format!("to/{}", random.below(100)) })
            }
            80..83 => any()
                .filter(|path| state.node(path).kind != FileKind::Symlink)
                .map(|path| Op::Chmod { path, perm: *random.of(&[0o600, 0o644, 0o755, 0o700]) }),
            83..85 => any().map(|path| Op::Chown { path, uid: random.below(5) as u32 }),
            85..87 => file().map(|path| {
                let secs = 1_000_000_000 + random.below(1_000_000) as i64;
                Op::Utimes { path, time: Timestamp { secs, nanos: 0 } }
            }),
            87..94 => any().map(|path| Op::Sync { path }),
            94.. => file().map(|path| Op::Read { path }),
            _ => None,
        };
        if let Some(op) = op {
            return op;
        }
    }
    Op::Sync { path: String::new() }
}

/// A write that makes a file larger than what is published in one piece: most of it is a hole, or one pattern.
fn large(random: &Random) -> impl FnOnce(String) -> Op {
    const PIECE: u64 = 8 << 20;
    sim().large.set(sim().large.get() - 1);
    let end = PIECE + random.between(1, 1 << 20);
    let at = if random.chance(700) { end - random.between(1, 3000) } else { random.below(5000) };
    let mut pattern = vec![0; 4093];
    random.fill(&mut pattern);
    let mut bytes = pattern.repeat(((end - at) / 4093 + 1) as usize);
    bytes.truncate((end - at) as usize);
    move |path| Op::Write { path, at, bytes: bytes.into() }
}

/// The state that an operation leads to; `None` when it changes nothing.
pub fn effect(history: &mut History, op: &Op) -> Option<State> {
    let mut state = history.now().clone();
    let new = |kind, perm| Node {
        kind,
        perm,
        uid: 0,
        mtime: None,
        content: 0,
        floor: 0,
        target: Bytes::new(),
    };
    match op {
        Op::Create { path } | Op::Mkdir { path } => {
            let id = history.new_id();
            let node = match op {
                Op::Mkdir { .. } => new(FileKind::Dir, 0o755),
                _ => new(FileKind::File, 0o644),
            };
            state.names.insert(path.clone(), id);
            state.nodes.insert(id, node);
        }
        Op::Symlink { path, target } => {
            let id = history.new_id();
            state.names.insert(path.clone(), id);
            let target = Bytes::from(target.clone());
            state.nodes.insert(id, Node { target, ..new(FileKind::Symlink, 0o777) });
        }
        Op::Write { path, at, bytes } => {
            let id = state.names[path];
            let mut content = BytesMut::from(&history.content(id)[..]);
            let end = *at as usize + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*at as usize..end].copy_from_slice(bytes);
            history.rewrite(&mut state, id, content.freeze());
        }
        Op::Truncate { path, size } => {
            let id = state.names[path];
            let mut content = BytesMut::from(&history.content(id)[..]);
            content.resize(*size as usize, 0);
            history.rewrite(&mut state, id, content.freeze());
        }
        Op::Punch { path, at, len } => {
            let id = state.names[path];
            let mut content = BytesMut::from(&history.content(id)[..]);
            let size = content.len();
            content[(*at as usize).min(size)..((*at + *len) as usize).min(size)].fill(0);
            history.rewrite(&mut state, id, content.freeze());
        }
        Op::Remove { path } => state.remove(path),
        Op::Rename { from, to } => {
            let id = state.names[from];
            let over = state.names.contains_key(to);
            state.rename(from, to);
            if over && let Some(node) = state.nodes.get_mut(&id) {
                node.floor = node.content;
            }
        }
        Op::Exchange { one, other } => {
            let spare = "\u{0}".to_owned();
            let ids = [state.names[one], state.names[other]];
            state.rename(one, &spare);
            state.rename(other, one);
            state.rename(&spare, other);
            for id in ids {
                if let Some(node) = state.nodes.get_mut(&id) {
                    node.floor = node.content;
                }
            }
        }
        Op::Link { from, to } => {
            let id = state.names[from];
            state.names.insert(to.clone(), id);
        }
        Op::Chmod { path, perm } => {
            let id = state.names[path];
            state.nodes.get_mut(&id).expect("it is there").perm = *perm;
        }
        Op::Chown { path, uid } => {
            let id = state.names[path];
            state.nodes.get_mut(&id).expect("it is there").uid = *uid;
        }
        Op::Utimes { path, time } => {
            let id = state.names[path];
            state.nodes.get_mut(&id).expect("it is there").mtime = Some(*time);
        }
        Op::Sync { .. } | Op::Read { .. } => return None,
    }
    Some(state)
}
/// Some change of a file's bytes.
pub fn change(random: &Random, path: String) -> Op {
    match random.below(5) {
        0 => Op::Truncate { path, size: random.below(5000) },
        1 => Op::Punch { path, at: random.below(5000), len: random.between(1, 4000) },
        _ => {
            let mut bytes = vec![0; random.between(1, 3000) as usize];
            random.fill(&mut bytes);
            Op::Write { path, at: random.below(4000), bytes: bytes.into() }
        }
    }
}
