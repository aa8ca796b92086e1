//! What the volume is like, and the store below it.

use s3vol::config::SettleMode;
use s3vol::store::Verb;

use super::{Director, Kind};
use crate::random::Random;
use crate::sim::sim;
use crate::tell;

impl Director {
    /// Chooses all of it.
    pub(super) fn choose_ground(&mut self) {
        let random = Random::new(self.plan.seed, 8);
        let is = |kind, chance| {
            let chosen = random.chance(chance);
            let (numbers, plan) = ((random.next(), random.next()), &self.plan);
            (chosen && plan.has(kind)).then_some(numbers)
        };
        if is(Kind::Never, 150).is_some() {
            tell!("nothing settles before the end");
            self.options.settle = SettleMode::Never;
        }
        if let Some((size, _)) = is(Kind::Short, 250) {
            let size = 500 + size % 16_000;
            tell!("the local log is written anew beyond {size} bytes");
            set(s3vol::fault::LONG_LOG, size);
        }
        if let Some((size, _)) = is(Kind::Parts, 300) {
            let size = 300 + size % 3000;
            tell!("files are uploaded in parts of {size} bytes");
            set(s3vol::fault::PART, size);
        }
        self.choose_sizes();
        if let Some((which, _)) = is(Kind::Weak, 200) {
            let all = [
                Verb::DeleteConditional,
                Verb::CompleteConditional,
                Verb::CopyConditional,
                Verb::Copy,
                Verb::Expiry,
                Verb::PutIfMatch,
                Verb::DeleteMany,
                Verb::DeleteManyConditional,
                Verb::PartCopy,
            ];
            let chosen = |(place, _): &(usize, &Verb)| which >> place & 1 == 1;
            let overlooked = all.iter().enumerate().filter(chosen).map(|(_, verb)| *verb);
            sim().bucket.overlooks.borrow_mut().extend(overlooked);
            tell!("the store does not honour {:?}", sim().bucket.overlooks.borrow());
        }
        if self.plan.has(Kind::Aim) && random.chance(500) {
            tell!("programs write to what is published just then");
            sim().aims.set(true);
            sim().kills.set(self.plan.has(Kind::Kill));
        }
    }

    /// How large files are, and what a commit takes at a time.
    fn choose_sizes(&self) {
        let random = Random::new(self.plan.seed, 9);
        if self.plan.has(Kind::Steps) && random.chance(200) {
            let size = random.between(500, 60_000);
            tell!("commits go in steps of {size} bytes");
            set(s3vol::fault::STEP, size);
        }
        let random = Random::new(self.plan.seed, 12);
        if self.plan.has(Kind::Rounds) && random.chance(500) {
            let size = random.between(1, 8);
            tell!("settling goes in rounds of {size} keys");
            set(s3vol::fault::ROUND, size);
            let chunk = random.between(1, 4);
            tell!("they are recorded {chunk} at a time");
            set(s3vol::fault::CHUNK, chunk);
        }
        // In parts of some hundred bytes they would be many.
        let parts = s3vol::fault::number(s3vol::fault::PART, 0) > 0;
        if self.plan.has(Kind::Large) && random.chance(40) && !parts {
            tell!("there are large files");
            sim().large.set(2);
        }
    }
}

/// Sets a seam of the code under test for this schedule, which is a process of its own.
fn set(name: &str, value: u64) {
    // SAFETY: no other thread of this process is left that could read it.
    unsafe { std::env::set_var(name, value.to_string()) };
}
