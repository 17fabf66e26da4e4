//! A database of another member's on its way in. One whose sender says on which pages its changes are, as every urd does, is
//! taken over while it comes, piece by piece; any other is put into a file first.

use std::ops::Range;

use tokio::sync::mpsc;

use crate::wal::spool::{Spool, Spooled};

/// In the header of a `POST /raft/snapshot`: the pages of bucket `key`, the first and the one after the last. etcd looks
/// at no such header.
pub const CHANGES_HEADER: &str = "x-urd-changes";

/// A database as it is handed to who takes it over.
#[derive(Debug)]
pub enum Received {
    /// It has come, and lies in a file.
    Whole(Spooled),
    /// It is coming.
    Arriving(Arriving),
}

/// The end of the way that the raft core's side holds.
#[derive(Debug)]
pub struct Arriving {
    /// The pages of bucket `key`.
    pub changes: Range<u64>,
    /// For what is needed at the end.
    pub spool: Spool,
    /// Gone without `Piece::End`: it has broken off.
    pub pieces: mpsc::Receiver<Piece>,
    /// Takes pieces back, to be filled again.
    pub emptied: mpsc::Sender<Vec<u8>>,
}

/// What comes next.
#[derive(Debug)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Nothing more: all has come.
    End,
}

/// The other end: of who reads it from the sender.
#[derive(Debug)]
pub struct Inlet {
    pieces: mpsc::Sender<Piece>,
    emptied: mpsc::Receiver<Vec<u8>>,
}

/// Pieces that wait between the two ends, beside one that each has.
const PIECES_WAITING: usize = 1;

pub fn arriving(changes: Range<u64>, spool: Spool) -> (Inlet, Arriving) {
    let (pieces, coming) = mpsc::channel(PIECES_WAITING);
    let (emptied, back) = mpsc::channel(PIECES_WAITING + 2);
    (Inlet { pieces, emptied: back }, Arriving { changes, spool, pieces: coming, emptied })
}

impl Inlet {
    /// Room for a piece.
    pub fn room(&mut self) -> Vec<u8> {
        let mut room = self.emptied.try_recv().unwrap_or_default();
        room.clear();
        room
    }

    /// Hands a piece on, once there is room for it. Whoever takes it over may have given up.
    pub async fn send(&mut self, piece: Piece) {
        let _ = self.pieces.send(piece).await;
    }
}

/// What the header says.
pub fn announce(changes: &Range<u64>) -> String {
    format!("{}-{}", changes.start, changes.end)
}

/// What a header has said; None if it is not understood.
pub fn announced(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once('-')?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_understood() {
        for changes in [0..0, 3..84_211, 3..u64::MAX] {
            assert_eq!(announced(&announce(&changes)), Some(changes));
        }
        for text in ["", "3", "3-", "-4", "a-b", "3-4-5", "-3-4"] {
            assert_eq!(announced(text), None, "{text}");
        }
    }
}
