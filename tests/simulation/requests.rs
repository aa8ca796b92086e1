//! The requests of a program's operation, as the kernel keeps them for it: what was answered stays answered when the
//! worker dies, and what was not is sent to its successor again, under the same number.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;

use s3vol::fs::FsError;
use s3vol::types::Caller;

use crate::client::Op;
use crate::model::Promise;
use crate::seam::Time;
use crate::sim::sim;
use crate::tell;

/// Programs of one mount by their directories.
type Program = (usize, String);

/// All operations that are under way.
#[derive(Default)]
pub struct Requests {
    under_way: BTreeMap<Program, UnderWay>,
    /// The last request's number. The kernel's are even.
    last: u64,
}

/// An operation, and what became of its requests.
struct UnderWay {
    doing: Doing,
    answers: Vec<Result<Box<dyn Any>, String>>,
    /// The answer that comes next.
    next: usize,
    unanswered: Option<u64>,
    resent: bool,
}

/// What a program does.
#[derive(Debug, Clone)]
pub struct Doing {
    pub op: Op,
    pub promise: Option<Promise>,
    pub began: Time,
}

/// A program's way to the file system.
#[derive(Debug, Clone)]
pub struct Wire(Option<Program>);

impl Wire {
    /// Of nobody whose requests are sent again.
    pub const NONE: Wire = Wire(None);

    /// Of the program in the directory `home` on a host.
    pub fn of(host: usize, home: &str) -> Wire {
        Wire(Some((host, home.to_owned())))
    }

    /// An operation begins.
    pub fn begin(&self, doing: Doing) {
        let Some(program) = self.0.clone() else { return };
        let (answers, next, unanswered, resent) = (Vec::new(), 0, None, false);
        let begun = UnderWay { doing, answers, next, unanswered, resent };
        sim().requests.borrow_mut().under_way.insert(program, begun);
    }

    /// It is answered as a whole.
    pub fn end(&self) {
        if let Some(program) = &self.0 {
            sim().requests.borrow_mut().under_way.remove(program);
        }
    }

    /// What was not answered when the worker died; the program waits for it still.
    pub fn again(&self) -> Option<Doing> {
        let mut requests = sim().requests.borrow_mut();
        let under_way = requests.under_way.get_mut(self.0.as_ref()?)?;
        under_way.next = 0;
        Some(under_way.doing.clone())
    }

    /// Whether one of the operation's requests came a second time.
    pub fn was_resent(&self) -> bool {
        let requests = sim().requests.borrow();
        let under_way = self.0.as_ref().and_then(|program| requests.under_way.get(program));
        under_way.is_some_and(|under_way| under_way.resent)
    }

    /// Sends one request, unless it was answered by a worker that is dead by now.
    pub async fn ask<T: Clone + 'static, F>(
        &self,
        request: impl FnOnce(Caller) -> F,
    ) -> Result<T, FsError>
    where
        F: Future<Output = Result<T, FsError>>,
    {
        let (caller, place) = match self.next() {
            Next::Answered(answer) => return answer,
            Next::Send(caller, place) => (caller, place),
        };
        let answer = request(caller).await;
        if sim().is_dead() {
            // Nobody hears the answer of a process that was killed.
            std::future::pending::<()>().await;
        }
        if let Some(place) = place {
            self.answered(place, &answer);
        }
        answer
    }

    fn next<T: Clone + 'static>(&self) -> Next<T> {
        let mut requests = sim().requests.borrow_mut();
        let Requests { under_way, last } = &mut *requests;
        let found = match &self.0 {
            Some(program) => under_way.get_mut(program),
            None => None,
        };
        let Some(under_way) = found else { return Next::Send(Caller::ROOT, None) };
        let place = under_way.next;
        under_way.next += 1;
        if let Some(answer) = under_way.answers.get(place) {
            return Next::Answered(match answer {
                Ok(value) => Ok(value.downcast_ref::<T>().expect("the same request").clone()),
                Err(context) => Err(FsError::Io { context: context.clone(), source: None }),
            });
        }
        let resent = under_way.unanswered.is_some();
        let unique = under_way.unanswered.unwrap_or(*last + 2);
        under_way.resent |= resent;
        if resent {
            tell!(
                "{}: request {unique} is sent again",
                self.0.as_ref().map_or("", |(_, home)| home)
            );
        }
        *last = unique.max(*last);
        under_way.unanswered = Some(unique);
        Next::Send(Caller { unique, resent, pid: 1, ..Caller::ROOT }, Some(place))
    }

    fn answered<T: Clone + 'static>(&self, place: usize, answer: &Result<T, FsError>) {
        let mut requests = sim().requests.borrow_mut();
        let program = self.0.as_ref().expect("it has a place");
        let Some(under_way) = requests.under_way.get_mut(program) else { return };
        assert_eq!(under_way.answers.len(), place, "one after the other");
        under_way.unanswered = None;
        under_way.answers.push(match answer {
            Ok(value) => Ok(Box::new(value.clone())),
            Err(error) => Err(error.to_string()),
        });
    }
}

enum Next<T> {
    Answered(Result<T, FsError>),
    Send(Caller, Option<usize>),
}

/// The mount of a host is gone, and with it whatever its kernel waited for.
pub fn forget(host: usize) {
    sim().requests.borrow_mut().under_way.retain(|(of, _), _| *of != host);
}
