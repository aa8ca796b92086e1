//! A program that uses the volume: one operation after the other in a directory of its own.

mod aim;
mod hands;
mod op;

use std::time::Duration;

use bytes::Bytes;
use s3vol::fs::FsError;
use s3vol::types::FileKind;

use crate::model::{Id, Promise, Rule, State, Survey};
use crate::random::Random;
use crate::requests::{Doing, Wire};
use crate::seam::{Machine, SECOND, Time};
use crate::sim::sim;
use crate::tell;
use aim::{published, target};
use op::{change, choose, effect, short};

pub use hands::Hands;
pub use op::Op;

/// What an operation that the local disk failed has left is looked at so often.
const LOOKS: u32 = 40;

/// A file whose fsync is promised something.
fn synced(state: &State, path: &str) -> Option<Id> {
    let id = *state.names.get(path)?;
    (state.nodes[&id].kind == FileKind::File).then_some(id)
}

/// Works until so many operations are done.
pub async fn work(
    hands: Hands,
    wire: Wire,
    (line, client): (usize, usize),
    ops: u64,
    random: Random,
) {
    let mut aim = None;
    if !go_on(&hands, &wire, (line, client)).await {
        return;
    }
    for _ in 0..ops {
        let op = {
            let model = sim().model.borrow();
            let state = model[line].clients[client].now();
            match aim.take().and_then(|aim| target(&random, state, aim)) {
                Some(path) => change(&random, path),
                None => choose(&random, state),
            }
        };
        let promise = {
            let mut model = sim().model.borrow_mut();
            let promise = match &op {
                Op::Sync { path } => {
                    let file = synced(model[line].clients[client].now(), path);
                    Some(model[line].promise(client, file))
                }
                _ => None,
            };
            let history = &mut model[line].clients[client];
            if let Some(state) = effect(history, &op) {
                history.begin(state);
            }
            promise
        };
        wire.begin(Doing { op, promise, began: sim().now() });
        if !go_on(&hands, &wire, (line, client)).await {
            return;
        }
        if sim().aims.get() && random.chance(200) {
            aim = published(&hands.home).await;
            // Most of them while it is under way.
            tokio::time::sleep(Duration::from_micros(random.below(4000))).await;
            if sim().kills.get() && random.chance(350) {
                let machine: &'static Machine = sim().seam.running.get().expect("a process works");
                sim().at(random.below(3 * SECOND), move || {
                    tell!("its process is killed");
                    machine.die();
                    sim().seam.met.set(true);
                });
            }
            continue;
        }
        let pause = match random.below(20) {
            0..10 => continue,
            10..16 => Duration::from_millis(random.below(30)),
            16..19 => Duration::from_millis(random.below(8000)),
            _ => Duration::from_secs(random.below(90)),
        };
        tokio::time::sleep(pause).await;
    }
}

/// Carries out what is under way, if anything is; also what a dead worker did not answer. False when the client can
/// do no more here.
async fn go_on(hands: &Hands, wire: &Wire, (line, client): (usize, usize)) -> bool {
    if let Some(Doing { op, promise, began }) = wire.again() {
        tell!("{}: {}", hands.home, short(&op));
        let done = hands.carry_out(wire, &op).await;
        if sim().is_dead() {
            // Nobody hears the answer of a process that was killed.
            std::future::pending::<()>().await;
        }
        tell!(
            "{}: {}",
            hands.home,
            match &done {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            }
        );
        let resent = wire.was_resent();
        wire.end();
        answered(&hands.home, (line, client), &op, promise, (began, resent), done);
    }
    let open = sim().model.borrow()[line].clients[client].under_way;
    !open || look_again(hands, (line, client)).await
}

/// The local disk has failed an operation, or a dead worker may have carried it out: what became of it, the directory
/// tells, unless another host has the volume. Then nobody can say before it is known which log goes on.
async fn look_again(hands: &Hands, (line, client): (usize, usize)) -> bool {
    for _ in 0..LOOKS {
        let survey = hands.survey().await;
        if sim().is_dead() {
            std::future::pending::<()>().await;
        }
        if let Some(goes_on) = is_clear(hands, (line, client), survey) {
            return goes_on;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    false
}

/// Whether the client goes on after a look at its directory, if that is known.
fn is_clear(
    hands: &Hands,
    (line, client): (usize, usize),
    survey: Result<Survey, FsError>,
) -> Option<bool> {
    let mut model = sim().model.borrow_mut();
    if model[line].found.is_some() {
        return Some(false);
    }
    let history = &mut model[line].clients[client];
    match survey {
        Ok(survey) => match history.find(&survey, Rule::Whole) {
            Ok(found) => history.go_on(&found, Rule::Whole, true),
            Err(why) => sim().fail(format!("after an operation failed: {why}")),
        },
        Err(error) => {
            tell!("{} is looked at: {error}", hands.home);
            return None;
        }
    }
    Some(true)
}

/// Where two contents differ first.
fn difference(one: &[u8], other: &[u8]) -> String {
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    let at = at.unwrap_or(one.len().min(other.len()));
    let there = |bytes: &[u8]| bytes[at..(at + 8).min(bytes.len())].to_vec();
    let (a, b) = (there(one), there(other));
    format!("{} bytes, and read {}; from {at} on {a:?} and {b:?}", one.len(), other.len())
}

/// What an answer means for what may be there from now on.
fn answered(
    home: &str,
    (line, client): (usize, usize),
    op: &Op,
    promise: Option<Promise>,
    (began, resent): (Time, bool),
    done: Result<Option<Bytes>, FsError>,
) {
    let mut model = sim().model.borrow_mut();
    let replaced = model[line].found.is_some();
    let history = &mut model[line].clients[client];
    let now = sim().now();
    let machine: &'static Machine = sim().seam.running.get().expect("a process works");
    // What the local disk fails may be there in part, and what was carried out by a dead worker is.
    let open = done.is_err() && (resent || machine.disk.troubled(began, now));
    if history.under_way && !open {
        history.end(done.is_ok());
    }
    let was_unsure = history.unsure;
    history.unsure |= replaced && done.is_err();
    match (op, &done) {
        (Op::Read { path }, Ok(Some(bytes))) => {
            let id = history.now().names[path];
            let right = match history.unsure {
                true => history.may_be_read(bytes),
                false => history.content(id) == bytes,
            };
            if !right {
                let differ = difference(history.content(id), bytes);
                let whose = if replaced { ", on a host that lost the volume" } else { "" };
                sim().fail(format!("{home}/{path} is not what was written{whose}: {differ}"));
            }
        }
        (_, Err(FsError::NoSpace(why))) => {
            let narrow = machine.disk.was_narrow(now);
            if narrow.is_none_or(|at| at + SECOND < began) {
                sim()
                    .fail(format!("{home}: {}: no room on a disk that has some: {why}", short(op)));
            }
        }
        (_, Err(FsError::Io { .. })) => {}
        (_, Err(_)) if was_unsure => {}
        (_, Err(error)) => sim().fail(format!("{home}: {}: {error}", short(op))),
        _ => {}
    }
    if let (Some(promise), Ok(_)) = (&promise, &done)
        && let Err(why) = model[line].keep(promise)
    {
        sim().fail(why);
    }
}
