//! Takes over a snapshot that has come from another member: makes a state of the database on a thread for long work while the
//! member goes on, its values going into the log meanwhile, and then has the state take the place of this member's own
//! (`core/installing.rs`). What is found damaged on the way ends that: nothing points at the values that were kept by then. One
//! at a time; one that comes later is newer, and ends the one before.

use std::{cell::Cell, io, rc::Rc};

use bytes::Bytes;
use futures_util::future::join;
use prost::Message as _;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{core::Incoming, driver::Driver, mail::ReceivedSnapshot, translate::messages};
use crate::{
    bolt::read::{Database, Onward},
    log,
    observe::log::hex,
    proto::raftpb,
    runtime,
    store::{
        backend::import::{self, KeepValues},
        state::State,
        types::{Place, Revision},
    },
    wal::{
        record::{MOVED_ITEM_BYTES, MovedValue, NOWHERE, RECORDS_FROM},
        spool::Spooled,
    },
};

/// What a record of one moved value takes beside the value at most.
const RECORD_BYTES_MAX: usize = 256;

/// Whose turn it is.
#[derive(Default)]
pub struct Installs {
    /// Held by the one that is under way.
    turn: Mutex<()>,
    /// The number of the last that came.
    last: Cell<u64>,
}

/// A state that waits for the checkpoint that makes it this member's.
pub struct Waiting {
    pub incoming: Box<Incoming>,
    /// Told when it is, or when it is of no use.
    pub done: oneshot::Sender<()>,
}

/// Values on their way into the log, and where it is told where they lie then.
struct Batch {
    values: Vec<MovedValue>,
    places: oneshot::Sender<Vec<Place>>,
}

const SUPERSEDED: &str = "another snapshot has come meanwhile";

impl Driver {
    /// Takes over a snapshot, or finds that it is of no use; either way raft has its message when this returns, and the
    /// leader its answer. Goes on to its end whether or not it is awaited to it.
    ///
    /// # Errors
    /// Where the database is not what it should be or cannot be taken in: nothing has changed then, and raft knows nothing
    /// of it.
    pub async fn install_snapshot(self: &Rc<Self>, message: raftpb::Message, database: Spooled) -> Result<(), String> {
        let (told, outcome) = oneshot::channel();
        let driver = self.clone();
        runtime::spawn(async move {
            let result = driver.install(message, database).await;
            // Nobody may wait any more.
            let _ = told.send(result);
        });
        outcome.await.expect("a task goes on to its end")
    }

    /// What `Effects::received` asks for.
    pub(super) fn take_snapshot(self: &Rc<Self>, caller: super::core::Caller, received: ReceivedSnapshot) {
        let driver = self.clone();
        runtime::spawn(async move {
            let ReceivedSnapshot { message, database, began } = received;
            let metrics = driver.member().metrics.peers.of(message.from.unwrap_or_default());
            let transfers = &metrics.snapshots_received;
            transfers.under_way.set(1);
            metrics.received_bytes.add(message.encoded_len() as u64 + database.bytes());
            let result = driver.install(message, database).await;
            transfers.under_way.set(0);
            if result.is_ok() {
                transfers.done.increment();
                transfers.duration.observe(runtime::now() - began);
            } else {
                transfers.failed.increment();
            }
            driver.with_core(|core| core.snapshot_taken(caller, result));
        });
    }

    async fn install(self: &Rc<Self>, message: raftpb::Message, database: Spooled) -> Result<(), String> {
        let message = messages::message_for_crate(message).ok_or("this is no message between members")?;
        let installs = self.installs();
        let number = installs.last.get() + 1;
        installs.last.set(number);
        let _turn = installs.turn.lock().await;
        if installs.last.get() != number {
            return Err(SUPERSEDED.into());
        }
        if !self.core().wants_snapshot(&message) {
            self.with_core(|core| core.step(message));
            return Ok(());
        }
        let (index, from) = (message.get_snapshot().get_metadata().index, message.from);
        let bytes = database.bytes();
        log!(
            Info,
            "applying snapshot",
            "current-applied-index" = self.core().standing().applied,
            "incoming-leader-snapshot-index" = index,
            "remote-snapshot-sender-id" = hex(from),
            "bytes" = bytes
        );
        self.with_core(|core| core.begin_keeping());
        let state = match self.import(database, index, number).await {
            Ok(state) => state,
            Err(cause) => {
                self.with_core(|core| core.give_up_keeping());
                log!(
                    Error,
                    "a snapshot of another member cannot be taken over; nothing has changed",
                    "incoming-leader-snapshot-index" = index,
                    "remote-snapshot-sender-id" = hex(from),
                    "error" = cause.as_str()
                );
                return Err(cause);
            }
        };
        let (done, is_done) = oneshot::channel();
        self.hand_over(Waiting { incoming: Box::new(Incoming { message, state }), done });
        is_done.await.map_err(|_gone| "the member stops".to_owned())
    }

    /// Makes a state of the database. All of its values are durable then.
    async fn import(self: &Rc<Self>, database: Spooled, index: u64, number: u64) -> Result<State, String> {
        let lease_ttl_min = self.core().state().lease_ttl_min();
        let record_bytes = (self.core().writer().segment_header(0).size - RECORDS_FROM) as usize;
        let (batches, mut written) = mpsc::channel(1);
        let keeper = Keeper { batches, numbering: Numbering::default(), record_bytes };
        let reading = runtime::bulk(move || read(&database, index, lease_ttl_min, keeper));
        let writing = async move {
            let result = self.keep_all(&mut written, number).await;
            // Neither end of the way between the two outlives the other.
            drop(written);
            result
        };
        let (state, written) = join(reading, writing).await;
        written.and(state)
    }

    /// Puts all values that come into the log; they are durable then.
    async fn keep_all(self: &Rc<Self>, batches: &mut mpsc::Receiver<Batch>, number: u64) -> Result<(), String> {
        while let Some(Batch { values, places }) = batches.recv().await {
            if self.installs().last.get() != number {
                return Err(SUPERSEDED.to_owned());
            }
            self.keep(&values, places).await.map_err(|cause| cause.to_string())?;
        }
        while !self.core().has_kept() {
            self.after_write().await;
        }
        Ok(())
    }

    /// Puts values into the log. One batch is being written at most while the next is put there.
    async fn keep(self: &Rc<Self>, values: &[MovedValue], places: oneshot::Sender<Vec<Place>>) -> io::Result<()> {
        while !self.core().has_kept() {
            self.after_write().await;
        }
        // Where there is no room this fails, and not a write of the log, which would end the member.
        let active = self.core().writer().active_life();
        self.files.prepare(active + 1).await?;
        // Who has asked may have given up.
        let _ = places.send(self.with_core(|core| core.keep_values(values)));
        Ok(())
    }
}

/// Blocking, and long.
fn read(database: &Spooled, index: u64, lease_ttl_min: i64, mut keeper: Keeper) -> Result<State, String> {
    let name = database.path().display().to_string();
    let file = database.open().map_err(|cause| format!("cannot open {name}: {cause}"))?;
    let file = Database::open(Onward::from(file), &name).map_err(|cause| cause.to_string())?;
    let held = import::consistent_index(&file).map_err(|cause| cause.to_string())?;
    if held != index {
        return Err(format!("the database goes up to entry {held}, its message says {index}"));
    }
    import::import(&file, lease_ttl_min, &mut keeper).map(|imported| imported.state).map_err(|cause| cause.to_string())
}

/// The end of the way into the log that the reading thread holds.
struct Keeper {
    batches: mpsc::Sender<Batch>,
    numbering: Numbering,
    /// What a segment of this member's has room for.
    record_bytes: usize,
}

impl KeepValues for Keeper {
    fn keep(&mut self, values: Vec<(Revision, Bytes)>) -> io::Result<Vec<Place>> {
        let longest = values.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
        if longest + MOVED_ITEM_BYTES + RECORD_BYTES_MAX > self.record_bytes {
            return Err(io::Error::other(format!(
                "it holds a value of {longest} bytes, and a segment of this member's log has room for {}: start the member \
                 with the --max-request-bytes of the others",
                self.record_bytes
            )));
        }
        let gone = |_| io::Error::other("it is taken over no further");
        let (places, told) = oneshot::channel();
        let batch = Batch { values: self.numbering.moved(values)?, places };
        self.batches.blocking_send(batch).map_err(|_gone| gone(()))?;
        told.blocking_recv().map_err(|_gone| gone(()))
    }
}

/// Where values that were in no segment are said to have been: in none, and each at another place.
#[derive(Default)]
pub struct Numbering(u32);

impl Numbering {
    /// # Errors
    /// If a value is longer than any log's.
    pub fn moved(&mut self, values: Vec<(Revision, Bytes)>) -> io::Result<Vec<MovedValue>> {
        let moved = |(revision, value): (Revision, Bytes)| {
            self.0 = self.0.wrapping_add(1);
            let len = u32::try_from(value.len()).map_err(io::Error::other)?;
            Ok(MovedValue { revision, from: Place { segment: NOWHERE, offset: self.0, len }, value })
        };
        values.into_iter().map(moved).collect()
    }
}

#[cfg(test)]
mod tests;
