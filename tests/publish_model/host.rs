//! What a host does: file operations, announcing, flushing, resolving, reconciling. This is the
//! part that the code follows.

use crate::model::{Action, Mutant, Publish, bit, note};
use crate::state::{Base, Extent, Host, Index, Inode, Intent, Object, Op, Request, State, read};

impl Publish {
    /// Whether requests for this key may still be on their way, as this host knows.
    fn hot(&self, host: &Host, key: u8) -> bool {
        host.view
            .open_on(key)
            .any(|i| !self.mutant(Mutant::NoHotKeys) || Some(i.epoch) == host.epoch)
    }

    fn needed_by_another(&self, index: &Index, key: u8, except: Option<u8>) -> bool {
        !self.mutant(Mutant::IgnoreOtherBase) && index.base_of_another(key, except)
    }

    /// A host acts on the volume while no other one has claimed it. One that was fenced and does
    /// not know it can only hand over batches that never become durable: its requests are under
    /// way already, and its next flush ends it.
    pub fn acts(&self, state: &State, host: &Host) -> bool {
        match host.epoch {
            Some(epoch) => {
                epoch == state.epoch
                    || self.mutant(Mutant::NoFence)
                    || self.mutant(Mutant::SegmentsEarly)
            }
            None => false,
        }
    }

    /// Room for one more batch that is not durable yet.
    fn room(&self, host: &Host) -> bool {
        host.pending < self.config.pending
    }

    fn announce(&self, state: &mut State, at: usize, mut intent: Intent) {
        intent.put = state.puts;
        state.puts += 1;
        let host = &mut state.hosts[at];
        intent.epoch = host.epoch.unwrap_or_default();
        host.pending += 1;
        host.view.intents.push(intent);
        host.spoiled |= host.listed.is_some();
        if self.mutant(Mutant::ReleaseAtAnnouncement) && intent.op != Op::Delete {
            self.release(&mut host.view.inodes[intent.inode as usize], intent.generation);
        }
        if self.mutant(Mutant::SendBeforeDurable) {
            state.requests.push(Request { intent });
        }
    }

    /// Drops what the published object holds and gives back the values of the dropped extents.
    fn release(&self, inode: &mut Inode, generation: u8) -> u8 {
        let mut dropped = 0;
        for extent in &mut inode.extents {
            if let Some(old) = *extent
                && (old.generation <= generation || self.mutant(Mutant::DropNewerExtents))
            {
                dropped |= bit(old.value);
                *extent = None;
            }
        }
        if inode.cut.is_some_and(|cut| cut <= generation || self.mutant(Mutant::LiftAnyCut)) {
            inode.cut = None;
        }
        dropped
    }

    /// What the host finds out about an intent, if it may ask yet.
    fn verdict(&self, state: &State, host: &Host, intent: &Intent) -> Option<bool> {
        if host.refused & bit(intent.put) != 0 {
            return Some(false);
        }
        let lies = state.store[intent.key as usize];
        // The answer to a COPY names the ETag it made, as a HEAD would.
        let right_bytes = |object: Object| match intent.op {
            Op::Copy { source, .. } => {
                object.content == source.content || self.mutant(Mutant::CopyUnchecked)
            }
            Op::Put(_) | Op::Delete => true,
        };
        if host.applied & bit(intent.put) != 0 {
            return Some(lies.is_none_or(|o| o.put != intent.put || right_bytes(o)));
        }
        let cold_at = if self.mutant(Mutant::NoMargin) { 1 } else { 0 };
        if intent.heat > cold_at {
            return None;
        }
        Some(match intent.op {
            Op::Delete => lies.is_none(),
            Op::Put(content) | Op::Copy { source: Object { content, .. }, .. } => {
                lies.is_some_and(|object| {
                    if self.mutant(Mutant::TrustEtag) {
                        object.content == content
                    } else {
                        object.put == intent.put && right_bytes(object)
                    }
                })
            }
        })
    }

    fn resolve(&self, state: &mut State, at: usize, put: u8) -> Option<()> {
        let intent = *state.hosts[at].view.intent(put)?;
        let applied = self.verdict(state, &state.hosts[at], &intent)?;
        let answered = (state.hosts[at].applied | state.hosts[at].refused) & bit(put) != 0;
        if !answered {
            note(&self.seen.decided_by_head);
        }
        let view = &mut state.hosts[at].view;
        view.intents.retain(|open| open.put != put);
        if applied {
            let lies = state.store[intent.key as usize];
            if !answered
                && intent.op != Op::Delete
                && lies.is_some_and(|object| object.put != intent.put)
            {
                state.wrong.adopted = true;
            }
            view.rest[intent.key as usize] = match intent.op {
                Op::Put(content) | Op::Copy { source: Object { content, .. }, .. } => {
                    Some(Object { content, put })
                }
                Op::Delete => None,
            };
            if intent.op != Op::Delete {
                self.settle(state, at, &intent);
            }
        } else if let Op::Copy { .. } = intent.op
            && let Some(object) = state.store[intent.key as usize]
            && object.put == put
        {
            // The COPY took other bytes than it should: what it made is ours, and garbage.
            state.hosts[at].view.rest[intent.key as usize] = Some(object);
        }
        let host = &mut state.hosts[at];
        host.applied &= !bit(put);
        host.refused &= !bit(put);
        host.pending += 1;
        Some(())
    }

    /// The published object becomes the base of its inode, unless the base went elsewhere since.
    fn settle(&self, state: &mut State, at: usize, intent: &Intent) {
        let view = &mut state.hosts[at].view;
        let alone = view.open_on(intent.key).next().is_none();
        let inode = &mut view.inodes[intent.inode as usize];
        if !inode.live {
            return;
        }
        if inode.base != intent.over && !self.mutant(Mutant::MoveAnyBase) {
            note(&self.seen.stranded);
            return;
        }
        inode.base = Base::At { key: intent.key, put: intent.put };
        if alone {
            let dropped = self.release(inode, intent.generation);
            if self.mutant(Mutant::SegmentsEarly) {
                state.segments_gone |= dropped;
            }
        }
        note(&self.seen.resolved);
    }

    /// Everything handed over becomes durable and its requests leave; or the host learns that it
    /// was fenced.
    fn flush(&self, state: &mut State, at: usize) {
        let current = state.hosts[at].epoch == Some(state.epoch);
        if !current && !self.mutant(Mutant::NoFence) {
            note(&self.seen.fenced);
            state.hosts[at] = Host::default();
            return;
        }
        state.wrong.fenced_ack |= !current;
        let host = &mut state.hosts[at];
        host.pending = 0;
        for intent in &host.view.intents {
            let fresh = Some(intent.epoch) == host.epoch
                && state.durable.intent(intent.put).is_none()
                && intent.heat > 0;
            if fresh && !self.mutant(Mutant::SendBeforeDurable) {
                state.requests.push(Request { intent: *intent });
            }
        }
        state.durable = host.view.clone();
    }

    pub fn host_actions(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let config = &self.config;
        let host = &state.hosts[at];
        let Some(epoch) = host.epoch else { return };
        if host.pending > 0 || epoch != state.epoch {
            actions.push(Action::Flush { host: at });
        }
        if !self.acts(state, host) {
            return;
        }
        if config.stale {
            actions.push(Action::Crash { host: at });
        }
        for intent in &host.view.intents {
            if self.room(host) && self.verdict(state, host, intent).is_some() {
                actions.push(Action::Resolve { host: at, put: intent.put });
            }
        }
        if !self.room(host) || epoch != state.epoch && !self.mutant(Mutant::NoFence) {
            return;
        }
        for inode in 0..config.inodes {
            if state.writes <= config.writes && host.view.inodes[inode as usize].live {
                actions.push(Action::Write { host: at, inode, block: 0 });
                // The blocks differ only by what a truncation does to them.
                if config.truncate || config.writes > 1 {
                    actions.push(Action::Write { host: at, inode, block: 1 });
                }
                if config.truncate {
                    actions.push(Action::Truncate { host: at, inode });
                }
            }
        }
        for name in 0..config.keys {
            if config.namespace {
                match host.view.names[name as usize] {
                    Some(_) => actions.push(Action::Unlink { host: at, name }),
                    None if state.inodes < config.inodes && !host.view.theirs[name as usize] => {
                        actions.push(Action::Create { host: at, name })
                    }
                    None => {}
                }
                if state.renames < config.renames && host.view.names[name as usize].is_some() {
                    actions.push(Action::Rename { host: at, from: name });
                }
            }
            if state.puts <= config.puts {
                self.publish_actions(state, at, name, actions);
            }
            if config.list && name == 0 && host.listed.is_none() {
                actions.push(Action::List { host: at });
            }
            let looks = if config.list { host.listed.is_some() } else { config.foreign };
            if looks && !self.hot(host, name) {
                actions.push(Action::Reconcile { host: at, key: name });
            }
        }
        for inode in 0..config.inodes {
            actions.push(Action::Park { host: at, inode });
        }
    }

    /// What may be announced for this key, whose name is the same number.
    fn publish_actions(&self, state: &State, at: usize, name: u8, actions: &mut Vec<Action>) {
        let host = &state.hosts[at];
        let view = &host.view;
        if self.hot(host, name) || view.theirs[name as usize] {
            return;
        }
        let Some(ino) = view.names[name as usize] else {
            if view.rest[name as usize].is_some() && !self.needed_by_another(view, name, None) {
                actions.push(Action::AnnounceDelete { host: at, key: name });
            }
            return;
        };
        if self.needed_by_another(view, name, Some(ino)) {
            return;
        }
        let inode = &view.inodes[ino as usize];
        let dirty = inode.extents.iter().any(Option::is_some) || inode.cut.is_some();
        match inode.base {
            // Other attributes: a copy onto itself.
            Base::At { key, .. } if !dirty && key == name => {
                if self.config.attributes {
                    actions.push(Action::AnnounceCopy { host: at, name });
                }
            }
            Base::At { key, .. } if !dirty => {
                if !self.hot(host, key) {
                    actions.push(Action::AnnounceCopy { host: at, name });
                }
            }
            _ => actions.push(Action::AnnouncePut { host: at, name }),
        }
    }

    pub fn host_step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Write { host, inode, block } => {
                let value = state.writes;
                state.writes += 1;
                let host = &mut state.hosts[host];
                let inode = &mut host.view.inodes[inode as usize];
                inode.generation += 1;
                inode.truth[block] = value;
                inode.extents[block] = Some(Extent { value, generation: inode.generation });
                host.pending += 1;
            }
            Action::Truncate { host, inode } => {
                // To one block and back to two: the second one reads as zeros.
                state.writes += 1;
                let host = &mut state.hosts[host];
                let inode = &mut host.view.inodes[inode as usize];
                inode.generation += 1;
                inode.truth[1] = 0;
                inode.extents[1] = None;
                inode.cut = Some(inode.generation);
                host.pending += 1;
            }
            Action::Create { host, name } => {
                let ino = state.inodes;
                state.inodes += 1;
                let host = &mut state.hosts[host];
                host.view.names[name as usize] = Some(ino);
                host.view.inodes[ino as usize] = Inode { live: true, ..Inode::default() };
                host.pending += 1;
            }
            Action::Unlink { host, name } => {
                let host = &mut state.hosts[host];
                host.view.unlink(name);
                host.pending += 1;
            }
            Action::Rename { host, from } => {
                state.renames += 1;
                let host = &mut state.hosts[host];
                let ino = host.view.names[from as usize].take();
                host.view.unlink(1 - from);
                host.view.names[1 - from as usize] = ino;
                host.pending += 1;
            }
            Action::AnnouncePut { host, name } => {
                let view = &state.hosts[host].view;
                let ino = view.names[name as usize]?;
                let inode = view.inodes[ino as usize];
                // The guard of the generation: the body is exactly what a reader sees now.
                let body = [read(state, view, &inode, 0)?, read(state, view, &inode, 1)?];
                let intent = self.intent(view, name, Op::Put(body), ino);
                self.announce(state, host, intent);
            }
            Action::AnnounceCopy { host, name } => {
                let view = &state.hosts[host].view;
                let ino = view.names[name as usize]?;
                let Base::At { key: from, .. } = view.inodes[ino as usize].base else {
                    return None;
                };
                let source = view.rest[from as usize]?;
                let intent = self.intent(view, name, Op::Copy { from, source }, ino);
                self.announce(state, host, intent);
            }
            Action::AnnounceDelete { host, key } => {
                let intent = self.intent(&state.hosts[host].view, key, Op::Delete, 0);
                self.announce(state, host, intent);
            }
            Action::Park { host, inode } => {
                let view = &mut state.hosts[host].view;
                let Base::At { key, put } = view.inodes[inode as usize].base else { return None };
                let object = state.store[key as usize]?;
                let wanted = view.names[key as usize].is_some_and(|named| named != inode);
                if !wanted || object.put != put || view.open_on(key).next().is_some() {
                    return None;
                }
                view.inodes[inode as usize].base = Base::Parked(object.content);
                state.hosts[host].pending += 1;
                note(&self.seen.parked);
            }
            Action::Flush { host } => self.flush(state, host),
            Action::Resolve { host, put } => self.resolve(state, host, put)?,
            Action::List { host } => {
                let lies = state.store[0];
                let host = &mut state.hosts[host];
                host.spoiled = host.view.open_on(0).next().is_some();
                host.listed = Some(lies);
            }
            Action::Reconcile { host, key } => self.reconcile(state, host, key)?,
            Action::Crash { host } => {
                state.hosts[host] = Host::default();
            }
            _ => return None,
        }
        Some(())
    }

    fn intent(&self, view: &Index, key: u8, op: Op, inode: u8) -> Intent {
        Intent {
            put: 0,
            epoch: 0,
            key,
            op,
            inode,
            generation: view.inodes[inode as usize].generation,
            over: view.inodes[inode as usize].base,
            expected: view.rest[key as usize],
            heat: self.config.heat,
        }
    }

    /// An object at a cold key that is not the recorded one is somebody's change. It keeps the
    /// name, and our file goes on under a conflict name, outside of the model.
    fn reconcile(&self, state: &mut State, at: usize, key: u8) -> Option<()> {
        let host = &mut state.hosts[at];
        let lies = if self.config.list {
            let spoiled = std::mem::take(&mut host.spoiled);
            let listed = host.listed.take()?;
            if spoiled && !self.mutant(Mutant::StaleList) {
                note(&self.seen.spoiled);
                return Some(());
            }
            listed
        } else {
            state.store[key as usize]
        };
        let host = &mut state.hosts[at];
        let known = host.view.rest[key as usize].map(|object| object.put);
        if lies.map(|object| object.put) == known || host.view.theirs[key as usize] {
            return self.config.list.then_some(());
        }
        state.wrong.misjudged |= !state.touched[key as usize];
        host.view.theirs[key as usize] = true;
        host.view.rest[key as usize] = None;
        host.view.unlink(key);
        host.pending += 1;
        note(&self.seen.conflict);
        Some(())
    }
}
