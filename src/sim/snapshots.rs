//! Snapshots between members: the leader's state as the bytes of a database, on its way as a request is, which takes longer than
//! a message; and how it is taken in: its values go into the log, then its checkpoint takes the place of the member's own.

use std::{io, ops::Range};

use bytes::Bytes;

use super::{Event, MS, World, member::Member};
use crate::{
    bolt::read::Database,
    proto::raftpb::{self, Message},
    raft::{
        core::{Capture, Core, Incoming},
        database::Making,
        sending::{Delivery, SnapshotToSend},
        translate::messages,
    },
    store::{
        backend::import::{self, Arrival, Imported, KeepValues, RevisionValue},
        types::Place,
    },
    wal::record::Numbering,
};

/// A state from another member, on its way in.
#[derive(Default)]
pub struct Exchange {
    /// Its values are on their way into the log.
    incoming: Option<Box<Incoming>>,
    /// Its values are durable, and it waits for the log to be between two writes: nothing may be moved from then on.
    pub waits: bool,
    /// Its checkpoint is being written.
    pub begun: Option<Box<Capture>>,
    /// Member and life of the process that sent it.
    pub sender: Option<(usize, u64)>,
    pub is_over: bool,
}

impl Member {
    /// Takes a snapshot in: its values are on their way into the log then. False if there is one already.
    fn receive(&mut self, message: raftpb::Message, database: &Sent, from: (usize, u64)) -> bool {
        if self.exchange.incoming.is_some() || self.exchange.begun.is_some() {
            return false;
        }
        let core = self.core.as_mut().expect("a process that runs");
        let message = messages::message_for_crate(message).expect("a message between members");
        self.exchange.sender = Some(from);
        if !core.wants_snapshot(&message) {
            core.step(message);
            self.exchange.is_over = true;
            return true;
        }
        core.begin_keeping();
        let index = message.get_snapshot().get_metadata().index;
        let mut keeper = Keeper { core, numbering: Numbering::default() };
        let imported = match index.is_multiple_of(2) {
            true => database.read_as_it_comes(&mut keeper),
            false => database.read_whole(&mut keeper),
        };
        assert_eq!(imported.consistent_index, index, "the state is that of the message");
        self.exchange.incoming = Some(Box::new(Incoming { message, state: imported.state }));
        true
    }

    /// Goes on with a snapshot whose values are durable.
    pub fn install_if_kept(&mut self) {
        let Some(core) = self.core.as_mut() else { return };
        if self.exchange.incoming.is_some() && core.has_kept() && !core.relocating() {
            core.install(self.exchange.incoming.take().expect("just seen"));
            self.exchange.waits = true;
        }
    }

    /// The checkpoint of a state from another member is on the disk, under its name. `dies`: and the process gets no further.
    fn exchange(&mut self, dies: bool) {
        let Some(capture) = self.exchange.begun.take() else { return };
        self.write_checkpoint(*capture);
        if !dies {
            self.core.as_mut().expect("a process that runs").installed();
            self.recycle_after();
            self.exchange.is_over = true;
        }
    }

    /// Whose process sent a snapshot that has been dealt with since this was last asked.
    pub fn take_installed(&mut self) -> Option<(usize, u64)> {
        std::mem::take(&mut self.exchange.is_over).then(|| self.exchange.sender.take()).flatten()
    }
}

/// A database on its way.
#[derive(Debug)]
pub struct Sent {
    bytes: Bytes,
    /// The pages of bucket `key`.
    changes: Range<u64>,
}

impl Sent {
    fn read_whole(&self, keeper: &mut Keeper<'_>) -> Imported {
        let database = Database::open(&self.bytes[..], "snapshot").expect("a database");
        import::import(&database, 1, keeper).expect("a sound database")
    }

    /// In pieces that are no pages.
    fn read_as_it_comes(&self, keeper: &mut Keeper<'_>) -> Imported {
        let mut arrival = Arrival::new(self.changes.clone());
        let mut kept = Vec::new();
        let mut keep = |arrival: &mut Arrival| {
            let values: Vec<RevisionValue<'_>> = arrival.values().collect();
            let places = keeper.keep(&values).expect("it has room");
            arrival.kept(&places).expect("as many places as values");
        };
        for piece in self.bytes.chunks(5000) {
            let mut take = |bytes: &[u8]| {
                kept.extend_from_slice(bytes);
                Ok(())
            };
            arrival.take(piece, &mut take).expect("sound pages");
            keep(&mut arrival);
        }
        arrival.end(&kept[..], "snapshot").expect("a sound database");
        keep(&mut arrival);
        arrival.finish(1).expect("a state of this version")
    }
}

struct Keeper<'a> {
    core: &'a mut Core,
    numbering: Numbering,
}

impl KeepValues for Keeper<'_> {
    fn keep(&mut self, values: &[RevisionValue<'_>]) -> io::Result<Vec<Place>> {
        let record_bytes = self.core.writer().moved_record_bytes();
        Ok(self.core.keep_values(&self.numbering.spell(values, record_bytes)?))
    }
}

impl World {
    pub(super) fn send_snapshot(&mut self, member: usize, snapshot: SnapshotToSend) {
        let SnapshotToSend { message, view } = snapshot;
        let to = self.members.iter().position(|one| Some(one.id) == message.to).expect("a member");
        let life = self.members[member].life;
        let mut making = Making::begin(view);
        let changes = making.changes();
        let database = making.piece(usize::MAX).map(|bytes| Box::new(Sent { bytes, changes }));
        let carried = self.network.carry(&mut self.random);
        match (database, carried) {
            // A request, not a message: it is slower, and who sends it hears of its loss.
            (Ok(database), Some(us)) => {
                let us = us + self.random.between(0, 400 * MS);
                self.after(us, Event::Snapshot { from: member, life, to, message: Box::new(message), database });
            }
            (Ok(_), None) => self.report_snapshot((member, life), to, Delivery::Lost),
            (Err(_), _) if self.members[member].disk.damaged => {
                self.report_snapshot((member, life), to, Delivery::Unreadable);
            }
            (Err(cause), _) => panic!("a sound disk cannot be read: {cause}"),
        }
    }

    pub(super) fn arrive_snapshot(
        &mut self,
        sender: (usize, u64),
        to: usize,
        message: Box<Message>,
        database: Box<Sent>,
    ) {
        let (from, life) = sender;
        let arrives = self.members[to].core.is_some() && self.network.is_open(from, to);
        if arrives && !self.runs(to) {
            let left = self.members[to].still_until - self.now;
            return self.after(left, Event::Snapshot { from, life, to, message, database });
        }
        self.trace(&[self.now, 8, to as u64, arrives as u64, database.bytes.len() as u64]);
        let arrives = arrives && !self.members[to].knows_removed(self.members[from].id);
        if !arrives || !self.members[to].receive(*message, &database, sender) {
            return self.report_snapshot(sender, to, Delivery::Lost);
        }
        *self.report.snapshots.entry("received").or_default() += 1;
        self.turn(to);
        if self.is_struck(150) {
            self.fault("kill while a snapshot is taken in");
            let soon = self.random.between(0, 5 * MS);
            self.after(soon, Event::Kill { member: to });
        }
    }

    /// Tells who sent a snapshot what has become of it.
    pub(super) fn report_snapshot(&mut self, (member, life): (usize, u64), to: usize, delivery: Delivery) {
        let us = self.random.between(MS, 20 * MS);
        self.after(us, Event::Reported { member, life, to: self.members[to].id, delivery });
    }

    pub(super) fn hear_report(&mut self, member: usize, life: u64, to: u64, delivery: Delivery) {
        if self.members[member].life != life || self.members[member].core.is_none() {
            return;
        }
        if !self.runs(member) {
            let left = self.members[member].still_until - self.now;
            return self.after(left, Event::Reported { member, life, to, delivery });
        }
        if self.members[member].core.as_mut().expect("it runs").report_snapshot(to, delivery).is_some() {
            *self.report.snapshots.entry("unreadable, leadership handed over").or_default() += 1;
        }
        self.turn(member);
    }

    /// The checkpoint of a state from another member has its name.
    pub(super) fn exchanged(&mut self, member: usize, life: u64) {
        if self.members[member].life != life || self.members[member].core.is_none() {
            return;
        }
        if !self.runs(member) {
            let left = self.members[member].still_until - self.now;
            return self.after(left, Event::Exchanged { member, life });
        }
        let dies = self.is_struck(100);
        self.trace(&[self.now, 9, member as u64, dies as u64]);
        self.members[member].exchange(dies);
        if dies {
            self.fault("kill after a state was exchanged");
            return self.fail(member);
        }
        *self.report.snapshots.entry("installed").or_default() += 1;
        self.turn(member);
    }
}
