use prost::Message;

use super::*;
use crate::{
    api::testing::Bench,
    bolt::read::Database,
    proto::etcdserverpb::SnapshotResponse,
    store::{
        backend::import::{self, InMemory},
        hash,
    },
    wire::frame::PREFIX_BYTES,
};

/// All pieces of a snapshot, and their digest.
fn taken(view: Arc<View>, piece: usize) -> io::Result<(Vec<Bytes>, Vec<u8>)> {
    let mut snapshot = Snapshot::begin(view);
    let mut pieces = Vec::new();
    while snapshot.left() > 0 {
        pieces.push(snapshot.piece(piece)?);
    }
    Ok((pieces, snapshot.digest.finalize().to_vec()))
}

#[test]
fn pieces_of_any_size_are_the_same_database() {
    let mut bench = Bench::new();
    bench.load("m", 700, 300);
    bench.load("x", 20, 150_000);
    let view = bench.shard().view();
    let wanted = hash::hash(&view.state, &view.segments).unwrap();
    let (whole, digest) = taken(view.clone(), usize::MAX).unwrap();
    assert_eq!(whole.len(), 1);
    let mut kept = InMemory::default();
    let imported = import::import(&Database::open(&whole[0][..], "f").unwrap(), 2, &mut kept).unwrap();
    assert_eq!(hash::hash(&imported.state, &kept).unwrap(), wanted);
    assert_eq!(digest, Sha256::digest(&whole[0]).to_vec());
    for piece in [limits::SNAPSHOT_MESSAGE_BYTES, limits::SNAPSHOT_PIECE_BYTES] {
        for cold in [false, true] {
            if cold {
                bench.cool_segments();
            }
            let (pieces, again) = taken(bench.shard().view(), piece).unwrap();
            assert!(pieces[..pieces.len() - 1].iter().all(|one| one.len() == piece));
            assert!(pieces.concat() == whole[0] && again == digest, "{piece} {cold}");
        }
    }
    bench.forget_segments();
    assert!(taken(bench.shard().view(), piece_bytes(&Share::of(&bench.shard().long_answers))).is_err());
}

#[test]
fn a_message_says_what_remains() {
    let field = version_field("3.7.0");
    let decoded = |remaining: u64, blob: &'static [u8]| {
        let message = [&message_head(remaining, blob.len(), &field)[..], blob, &field].concat();
        assert_eq!(message[1..PREFIX_BYTES], (message.len() as u32 - 5).to_be_bytes());
        SnapshotResponse::decode(&message[PREFIX_BYTES..]).unwrap()
    };
    let response = SnapshotResponse {
        header: None,
        remaining_bytes: 1 << 40,
        blob: Bytes::from_static(b"blob"),
        version: "3.7.0".into(),
    };
    assert_eq!(decoded(1 << 40, b"blob"), response);
    assert_eq!(decoded(0, b"blob"), SnapshotResponse { remaining_bytes: 0, ..response });
}

#[test]
fn pieces_are_whole_messages_however_many_share() {
    let answers = Rc::default();
    let mut shares = Vec::new();
    for _ in 0..300 {
        shares.push(Share::of(&answers));
        let bytes = piece_bytes(&shares[0]);
        assert!(bytes >= limits::LISTING_PIECE_BYTES_MIN && bytes.is_multiple_of(limits::SNAPSHOT_MESSAGE_BYTES));
    }
}
