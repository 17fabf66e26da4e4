//! Takes over a snapshot that comes from another member: makes a state of the database on a thread for long work while the
//! member goes on, and while the database still comes if its sender is urd. Its values go into the log meanwhile. Then it has the state take the place of this member's own
//! (`core/installing.rs`). What is found damaged on the way ends that: nothing points at the values that were kept by then. One
//! at a time; one that comes later is newer, and ends the one before.

use std::{cell::Cell, io, ops::Range, pin::pin, rc::Rc};

use futures_util::future::{Either, join, select};
use prost::Message as _;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use super::{
    arriving::{Arriving, Piece, Received},
    core::Incoming,
    driver::Driver,
    mail::ReceivedSnapshot,
    translate::messages,
};
use crate::{
    bolt::read::{Database, Onward},
    log,
    observe::log::hex,
    proto::raftpb,
    runtime,
    store::{
        backend::import::{self, Arrival, Hashing, KeepValues, RevisionValue},
        state::State,
        types::Place,
    },
    wal::{
        record::{MOVED_ITEM_BYTES, NewValues, Numbering, RECORDS_FROM},
        spool::{Spool, Spooled},
    },
};

/// What a record of one moved value takes beside the value at most.
const RECORD_BYTES_MAX: usize = 256;

/// Whose turn it is.
#[derive(Default)]
pub struct Installs {
    /// Held by the one that is under way.
    turn: Mutex<()>,
    /// Tells that one when another has come.
    newer: Notify,
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
    values: NewValues,
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
    pub async fn install_snapshot(self: &Rc<Self>, message: raftpb::Message, database: Received) -> Result<(), String> {
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
            metrics.received_bytes.add(message.encoded_len() as u64);
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

    async fn install(self: &Rc<Self>, message: raftpb::Message, database: Received) -> Result<(), String> {
        let message = messages::message_for_crate(message).ok_or("this is no message between members")?;
        let installs = self.installs();
        let number = installs.last.get() + 1;
        installs.last.set(number);
        installs.newer.notify_waiters();
        let _turn = installs.turn.lock().await;
        if installs.last.get() != number {
            return Err(SUPERSEDED.into());
        }
        if !self.core().wants_snapshot(&message) {
            self.with_core(|core| core.step(message));
            return Ok(());
        }
        let (index, from) = (message.get_snapshot().get_metadata().index, message.from);
        log!(
            Info,
            "applying snapshot",
            "current-applied-index" = self.core().standing().applied,
            "incoming-leader-snapshot-index" = index,
            "remote-snapshot-sender-id" = hex(from)
        );
        self.with_core(|core| core.begin_keeping());
        let received = &self.member().metrics.peers.of(from).received_bytes;
        let imported = match database {
            Received::Whole(database) => {
                received.add(database.bytes());
                self.import(database, index, number).await
            }
            Received::Arriving(arriving) => {
                self.import_arriving(arriving, index, number, &|bytes| received.add(bytes)).await
            }
        };
        let state = match imported {
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
        let (batches, mut written) = mpsc::channel(1);
        let keeper = Keeper { batches, speller: self.speller() };
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

    /// Makes a state of a database while it comes. All of its values are durable then. `received` is told how many bytes have
    /// come.
    async fn import_arriving(
        self: &Rc<Self>,
        arriving: Arriving,
        index: u64,
        number: u64,
        received: &dyn Fn(u64),
    ) -> Result<State, String> {
        let lease_ttl_min = self.core().state().lease_ttl_min();
        let text = |cause: io::Error| cause.to_string();
        let Arriving { changes, spool, mut pieces, emptied } = arriving;
        let mut taking = Box::new(Taking::new(changes, spool, self.speller()));
        loop {
            if self.installs().last.get() != number {
                return Err(SUPERSEDED.to_owned());
            }
            let piece = match select(pin!(pieces.recv()), pin!(self.installs().newer.notified())).await {
                Either::Left((Some(Piece::Bytes(piece)), _)) => piece,
                Either::Left((Some(Piece::End), _)) => break,
                Either::Left((None, _)) => return Err("it has broken off".to_owned()),
                Either::Right(_) => return Err(SUPERSEDED.to_owned()),
            };
            received(piece.len() as u64);
            let (back, piece, spelled) = runtime::bulk(move || {
                let spelled = taking.take(&piece);
                (taking, piece, spelled)
            })
            .await;
            taking = back;
            // Who would fill it again may be done.
            let _ = emptied.try_send(piece);
            taking.places = self.keep(&spelled?).await.map_err(text)?;
        }
        let (mut taking, spelled) = runtime::bulk(move || {
            let spelled = taking.end();
            (taking, spelled)
        })
        .await;
        taking.places = self.keep(&spelled?).await.map_err(text)?;
        let finishing = runtime::bulk(move || taking.finish(index, lease_ttl_min));
        let (state, ()) = join(finishing, self.all_kept()).await;
        state
    }

    fn speller(&self) -> Speller {
        let core = self.core();
        let writer = core.writer();
        Speller {
            numbering: Numbering::default(),
            segment_bytes: (writer.segment_header(0).size - RECORDS_FROM) as usize,
            record_bytes: writer.moved_record_bytes(),
        }
    }

    /// Puts all values that come into the log; they are durable then.
    async fn keep_all(self: &Rc<Self>, batches: &mut mpsc::Receiver<Batch>, number: u64) -> Result<(), String> {
        while let Some(Batch { values, places }) = batches.recv().await {
            if self.installs().last.get() != number {
                return Err(SUPERSEDED.to_owned());
            }
            let kept = self.keep(&values).await.map_err(|cause| cause.to_string())?;
            // Who has asked may have given up.
            let _ = places.send(kept);
        }
        self.all_kept().await;
        Ok(())
    }

    async fn all_kept(self: &Rc<Self>) {
        while !self.core().has_kept() {
            self.after_write().await;
        }
    }

    /// Puts values into the log. One batch is being written at most while the next is put there.
    async fn keep(self: &Rc<Self>, values: &NewValues) -> io::Result<Vec<Place>> {
        self.all_kept().await;
        // The next segment is being made while this one fills, bit by bit. Where there is no room for it this fails, and not a write
        // of the log, which would end the member.
        let (active, room) = {
            let core = self.core();
            (core.writer().active_life(), core.writer().room())
        };
        if values.log_bytes() > room {
            self.files.prepare_now(active + 1).await?;
        }
        Ok(self.with_core(|core| core.keep_values(values)))
    }
}

/// Blocking, and long.
fn read(database: &Spooled, index: u64, lease_ttl_min: i64, mut keeper: Keeper) -> Result<State, String> {
    let name = database.path().display().to_string();
    let file = database.open().map_err(|cause| format!("cannot open {name}: {cause}"))?;
    let file = Database::open(Onward::from(file), &name).map_err(|cause| cause.to_string())?;
    let held = import::consistent_index(&file).map_err(|cause| cause.to_string())?;
    if held != index {
        return Err(other_index(held, index));
    }
    import::import_hashing(Hashing::Nothing, &file, lease_ttl_min, &mut keeper)
        .map(|imported| imported.state)
        .map_err(|cause| cause.to_string())
}

fn other_index(held: u64, index: u64) -> String {
    format!("the database goes up to entry {held}, its message says {index}")
}

/// Spells values as they are to lie in the log.
struct Speller {
    numbering: Numbering,
    /// What a segment of this member's has room for.
    segment_bytes: usize,
    record_bytes: usize,
}

impl Speller {
    fn spell(&mut self, values: &[RevisionValue<'_>]) -> io::Result<NewValues> {
        let longest = values.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
        if longest + MOVED_ITEM_BYTES + RECORD_BYTES_MAX > self.segment_bytes {
            return Err(io::Error::other(format!(
                "it holds a value of {longest} bytes, and a segment of this member's log has room for {}: start the member \
                 with the --max-request-bytes of the others",
                self.segment_bytes
            )));
        }
        self.numbering.spell(values, self.record_bytes)
    }
}

/// The end of the way into the log that the reading thread holds.
struct Keeper {
    batches: mpsc::Sender<Batch>,
    speller: Speller,
}

impl KeepValues for Keeper {
    fn keep(&mut self, values: &[RevisionValue<'_>]) -> io::Result<Vec<Place>> {
        let gone = |_| io::Error::other("it is taken over no further");
        let (places, told) = oneshot::channel();
        let batch = Batch { values: self.speller.spell(values)?, places };
        self.batches.blocking_send(batch).map_err(|_gone| gone(()))?;
        told.blocking_recv().map_err(|_gone| gone(()))
    }
}

/// A database that is taken over as it comes. Blocking.
struct Taking {
    arrival: Arrival,
    /// What is needed at the end, until it is there.
    spool: Option<Spool>,
    speller: Speller,
    /// Where the values lie that were spelled last.
    places: Vec<Place>,
}

impl Taking {
    fn new(changes: Range<u64>, spool: Spool, speller: Speller) -> Self {
        Taking { arrival: Arrival::new(changes), spool: Some(spool), speller, places: Vec::new() }
    }

    /// Takes what comes next, and gives the values that are to be kept.
    fn take(&mut self, piece: &[u8]) -> Result<NewValues, String> {
        self.index_kept()?;
        let spool = self.spool.as_mut().expect("it is not at its end");
        self.arrival.take(piece, &mut |bytes| spool.write(bytes)).map_err(|cause| cause.to_string())?;
        self.spell()
    }

    /// All has come.
    fn end(&mut self) -> Result<NewValues, String> {
        self.index_kept()?;
        let spool = self.spool.take().expect("it ends once");
        let spooled = spool.finish().map_err(|cause| cause.to_string())?;
        let name = spooled.path().display().to_string();
        let file = spooled.open().map_err(|cause| format!("cannot open {name}: {cause}"))?;
        self.arrival.end(Onward::from(file), &name).map_err(|cause| cause.to_string())?;
        self.spell()
    }

    /// All is kept.
    fn finish(mut self, index: u64, lease_ttl_min: i64) -> Result<State, String> {
        self.index_kept()?;
        let imported = self.arrival.finish(lease_ttl_min)?;
        match imported.consistent_index == index {
            true => Ok(imported.state),
            false => Err(other_index(imported.consistent_index, index)),
        }
    }

    fn index_kept(&mut self) -> Result<(), String> {
        self.arrival.kept(&std::mem::take(&mut self.places))
    }

    fn spell(&mut self) -> Result<NewValues, String> {
        let values: Vec<RevisionValue<'_>> = self.arrival.values().collect();
        self.speller.spell(&values).map_err(|cause| cause.to_string())
    }
}

#[cfg(test)]
mod tests;
