//! Prefetch of small files from one directory to the next: whoever reads a tree file by file goes on like that.
//!
//! A directory half of whose files were read in an order (`neighbours`) predicts the next one: the first one below it,
//! else the next one beside it, else the one after that which holds it. If the reader comes there, it goes through a
//! tree, and from then on the files of the directories that follow are prefetched: at most as many as were read.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::Mutex;

use super::neighbours::{COMING, Order, Row, Turn, inos};
use super::{DataError, Volume};
use crate::clock::boottime;
use crate::types::Ino;

/// A reader that needs longer from one directory to the next does not go through a tree.
const LATELY: Duration = Duration::from_secs(10);
/// Directories without files that are looked into for the next one with some, and steps up the tree.
const EMPTY: usize = 8;
const UP: usize = 8;
/// Levels that are kept; those above are listed again.
const LEVELS: usize = 16;

/// The directories below one, and which of them comes next.
#[derive(Debug)]
struct Level {
    dir: Ino,
    dirs: Vec<Ino>,
    next: usize,
}

#[derive(Debug)]
struct Walk {
    order: Order,
    levels: Vec<Level>,
    /// What comes next, and how many files of it are prefetched.
    coming: VecDeque<(Ino, usize)>,
    /// How many directories came as predicted, and the files read in them.
    followed: usize,
    read: usize,
    at: Duration,
}

/// The tree that is read. One at a time: a second reader of another tree begins it anew.
#[derive(Debug, Default)]
pub(super) struct Series(Mutex<Option<Walk>>);

impl Volume {
    /// Prefetches what follows after that directory.
    pub(super) fn goes_on_after(&self, turn: Turn) {
        let this = Weak::clone(&self.this);
        tokio::spawn(async move {
            let Some(volume) = this.upgrade() else { return };
            if let Err(error) = volume.follow_tree(turn).await {
                tracing::debug!(dir = %turn.dir, %error, "looking for the next directory failed");
            }
        });
    }

    async fn follow_tree(&self, turn: Turn) -> Result<(), DataError> {
        let mut series = self.series.0.lock().await;
        let now = boottime();
        let known = series
            .take()
            .filter(|walk| walk.order == turn.order && now.saturating_sub(walk.at) < LATELY)
            .filter(|walk| walk.coming.iter().any(|(dir, _)| *dir == turn.dir));
        let mut walk = match known {
            Some(mut walk) => {
                while walk.coming.pop_front().is_some_and(|(dir, _)| dir != turn.dir) {}
                walk.followed += 1;
                walk.read += turn.read;
                walk.at = now;
                walk
            }
            None => {
                let Some(below) = self.level(turn.dir, turn.order, None).await? else {
                    return Ok(());
                };
                Walk {
                    order: turn.order,
                    levels: vec![below],
                    coming: VecDeque::new(),
                    followed: 0,
                    read: turn.read,
                    at: now,
                }
            }
        };
        self.look_ahead(&mut walk).await?;
        *series = Some(walk);
        Ok(())
    }

    async fn look_ahead(&self, walk: &mut Walk) -> Result<(), DataError> {
        let allowed = match walk.followed {
            0 => 0,
            _ => self.most_ahead().min(walk.read),
        };
        while walk.coming.len() < COMING {
            let ahead: usize = walk.coming.iter().map(|(_, files)| files).sum();
            if ahead >= allowed && !walk.coming.is_empty() {
                break;
            }
            let Some((dir, files)) = self.next_directory(walk).await? else { break };
            let count = files.len().min(allowed - ahead);
            walk.coming.push_back((dir, count));
            if count > 0 {
                let next = files[..count].to_vec();
                self.neighbours.comes(Row::ahead(dir, files, walk.order, count));
                self.bring_neighbours(next);
            }
        }
        Ok(())
    }

    /// The next directory of the tree that holds files, with these.
    async fn next_directory(&self, walk: &mut Walk) -> Result<Option<(Ino, Vec<Ino>)>, DataError> {
        let (mut empty, mut up) = (0, 0);
        while empty < EMPTY && up < UP {
            let Some(level) = walk.levels.last_mut() else { break };
            let Some(dir) = level.dirs.get(level.next).copied() else {
                let over = level.dir;
                walk.levels.pop();
                if walk.levels.is_empty() {
                    up += 1;
                    let holds = self.names_of(over).await?.into_iter().next();
                    let Some((parent, _)) = holds else { break };
                    walk.levels.extend(self.level(parent, walk.order, Some(over)).await?);
                }
                continue;
            };
            level.next += 1;
            let Some(entries) = self.entries(dir, walk.order).await? else { break };
            walk.levels.push(Level { dir, dirs: inos(entries.dirs), next: 0 });
            if walk.levels.len() > LEVELS {
                walk.levels.remove(0);
            }
            if !entries.files.is_empty() {
                return Ok(Some((dir, inos(entries.files))));
            }
            empty += 1;
        }
        Ok(None)
    }

    /// The directories below `dir`, those after `after` to come.
    async fn level(
        &self,
        dir: Ino,
        order: Order,
        after: Option<Ino>,
    ) -> Result<Option<Level>, DataError> {
        let Some(entries) = self.entries(dir, order).await? else { return Ok(None) };
        let dirs = inos(entries.dirs);
        let place = dirs.iter().position(|ino| Some(*ino) == after);
        Ok(Some(Level { dir, dirs, next: place.map_or(0, |place| place + 1) }))
    }
}
