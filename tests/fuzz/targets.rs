//! What is fed with arbitrary bytes: each function takes an input and panics only if the code under it does, or breaks a
//! promise. Used twice: by the fuzzer (`fuzz/`), which looks for inputs, and by `tests/fuzz/main.rs`, which replays the
//! inputs that were kept.
//!
//! Bytes that carry checksums are given right ones first, where the input asks for it: a fuzzer does not find them, and
//! what lies behind them must hold all the same.

// By its path, which is the same from here and from `fuzz/`.
#[path = "outside.rs"]
mod outside;

use std::{cell::Cell, collections::HashMap, io, ops::Range, rc::Rc, sync::mpsc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use urd::{
    api::{check, request},
    bolt::read::{Database, ReadError},
    error::{self, Status},
    grpc::{
        Call, Drain, Frame, Handler, LocalBoxFuture, Origin, Route, Settings, Shape, Unary, serve,
        stream::{Replies, Requests},
    },
    http::gateway::transcode::{Escape, Input, Read, Scan, Scanner, Schema, Step, Writer, read},
    proto::{etcdserverpb::*, raftpb},
    runtime,
    store::{
        apply::{AppliedBatch, ApplyEntry},
        backend::{
            export::Export,
            import::{self, Arrival, InMemory, KeepValues},
        },
        checkpoint, hash,
        state::State,
        types::{Place, Revision, Values},
    },
    wal::{
        disk::Dir,
        inspect,
        record::{
            self, FORMAT_VERSION, FORMAT_VERSION_WITHOUT_PLACE, HEADER_BYTES, Header, RECORDS_FROM, SegmentHeader,
        },
        recovery,
    },
};

/// What is fuzzed: its name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by name.
pub const TARGETS: [Target; 11] = [
    ("record", record),
    ("checkpoint", checkpoint),
    ("database", database),
    ("request", request),
    ("grpc", grpc),
    ("json", json),
    // The protocol alone, without an executor and the calls behind it, by the rules that it sets itself.
    ("http2", urd::grpc::fuzz_connection),
    ("certificate", urd::net::tls::fuzz_certificates),
    ("config", outside::config),
    ("token", outside::token),
    ("dns", urd::discovery::fuzz_dns),
];

// ---- databases ----

/// A file as etcd's database. The first byte: bit 1 puts both metas' checksums right, where they would lie with pages of
/// 4 KiB. What is taken over makes a database that gives the same state, also as it comes; the other bits say between which
/// pages the changes are said to be.
pub fn database(input: &[u8]) {
    let Some((how, file)) = input.split_first() else { return };
    let mut file = file.to_vec();
    file.resize(file.len().next_multiple_of(1024), 0);
    if how & 1 != 0 {
        for meta in [16, 4096 + 16] {
            if let Some(meta) = file.get_mut(meta..meta + 64) {
                let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| {
                    (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                });
                meta[56..].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
    let take = |file: &[u8]| {
        let mut kept = InMemory::default();
        let imported = import::import(&Database::open(file, "the file")?, 2, &mut kept)?;
        Ok::<_, ReadError>((imported, kept))
    };
    let hash_of = |state: &State, kept: &InMemory| hash::hash(state, kept).expect("every value is there");
    // As it comes, in pieces that are no pages, its changes said to be on some of its pages.
    let arrive = |file: &[u8], changes: Range<u64>| {
        let (mut arrival, mut kept, mut rest) = (Arrival::new(changes), InMemory::default(), Vec::new());
        let mut keep = |arrival: &mut Arrival| {
            let values: Vec<_> = arrival.values().collect();
            let places = kept.keep(&values).expect("memory takes all");
            arrival.kept(&places)
        };
        for piece in file.chunks(5000) {
            arrival
                .take(piece, &mut |bytes| io::Write::write_all(&mut rest, bytes))
                .map_err(|cause| cause.to_string())?;
            keep(&mut arrival)?;
        }
        arrival.end(&rest[..], "the file").map_err(|cause| cause.to_string())?;
        keep(&mut arrival)?;
        Ok::<_, String>((arrival.finish(2)?, kept))
    };
    let taken = take(&file);
    if let Ok((arrived, kept)) = arrive(&file, u64::from(how >> 1 & 7)..u64::from(how >> 4)) {
        let (imported, kept_of_whole) = taken.as_ref().expect("what is sound as it comes is sound");
        assert_eq!(hash_of(&arrived.state, &kept), hash_of(&imported.state, kept_of_whole));
    }
    let Ok((imported, kept)) = taken else { return };
    assert_eq!(hash::hash_changes(&imported.state.index, &kept).expect("every value is there"), imported.changes_hash);
    let mut export = Export::new(imported.state.clone());
    for hole in export.make(usize::MAX) {
        export.pages()[hole.at..hole.at + hole.len].copy_from_slice(&kept.read(hole.what).expect("it is there"));
    }
    let (again, kept_again) = take(export.pages()).expect("what is exported is sound");
    assert_eq!(hash_of(&again.state, &kept_again), hash_of(&imported.state, &kept));
    let changes = export.changes();
    let (again, kept_again) = arrive(export.pages(), changes).expect("what is exported is sound");
    assert_eq!(hash_of(&again.state, &kept_again), hash_of(&imported.state, &kept));
}

// ---- records ----

const SEGMENT_BYTES: usize = 3 * 4096;
const SALT: u32 = 0x5a17;

/// A log of one or two segments whose records are the input's. The first byte: bit 1 puts checksums right, bit 2 the chain
/// and the write numbers too, bit 4 makes two segments of it.
pub fn record(input: &[u8]) {
    let Some((how, mut input)) = input.split_first() else { return };
    thread_local! {
        static TEMP: tempfile::TempDir =
            tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    }
    TEMP.with(|temp| {
        let (mut chain, mut write) = (0, 0);
        for life in 1..=if how & 4 == 0 { 1 } else { 2 } {
            let (now, rest) = input.split_at(input.len().min(SEGMENT_BYTES - RECORDS_FROM as usize));
            input = rest;
            // The second is of the older version: a log may have both.
            let version = [FORMAT_VERSION, FORMAT_VERSION_WITHOUT_PLACE][life as usize - 1];
            let size = SEGMENT_BYTES as u32;
            let header = SegmentHeader { version, life, size, salt: SALT, cluster_id: 0xc1, member_id: 0xe1 };
            let mut bytes = header.encode();
            bytes.extend_from_slice(now);
            bytes.resize(SEGMENT_BYTES, 0);
            if how & 1 != 0 {
                put_right(&mut bytes, &header, (how & 2 != 0).then_some((&mut chain, &mut write)));
            }
            std::fs::write(temp.path().join(format!("{life:08x}.seg")), bytes).expect("a file in memory");
        }
        let dir = Dir::look_at(temp.path());
        if let Ok(Some(found)) = recovery::read(&dir) {
            let indexes = found.entries.iter().map(|entry| entry.index);
            assert!(indexes.eq(1..=found.entries.len() as u64), "entries without gaps");
            assert!(found.hard_state.commit <= found.entries.len() as u64, "a commit of what is there");
            let _ = inspect::verify(&dir);
        }
        inspect::walk(&dir, &mut |_, _| {}).expect("files that can be read");
        let _ = std::fs::remove_file(temp.path().join("00000002.seg"));
    });
    let place = Place { segment: 1, offset: 4144, len: input.len() as u32 };
    if let Some(moves) = record::decode_moved(input, place) {
        assert!(moves.iter().all(|one| one.to.offset + one.to.len <= place.offset + place.len));
    }
}

/// Gives every header of a segment, each at the place where the one before ends, the checksums that it needs.
fn put_right(bytes: &mut [u8], segment: &SegmentHeader, mut chained: Option<(&mut u32, &mut u64)>) {
    let mut at = RECORDS_FROM as usize;
    while at + HEADER_BYTES <= bytes.len() {
        let number = |from: usize| u32::from_le_bytes(bytes[at + from..at + from + 4].try_into().expect("4 bytes"));
        let len = number(12) as usize % 2048;
        let first = bytes[at + 20] & 0x80 != 0;
        let end = (at + HEADER_BYTES + len).min(bytes.len());
        let payload_crc = crc32c(0, &bytes[at + HEADER_BYTES..end]);
        bytes[at + 4..at + 8].copy_from_slice(&payload_crc.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[at + 16..at + 20].copy_from_slice(&segment.life.to_le_bytes());
        bytes[at + 22..at + 24].copy_from_slice(b"uR");
        if let Some((chain, write)) = &mut chained {
            **write += u64::from(first);
            bytes[at + 8..at + 12].copy_from_slice(&chain.to_le_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&write.to_le_bytes());
            // Small numbers, so that entries follow each other.
            bytes[at + 41..at + 48].fill(0);
        }
        let place = if segment.version == FORMAT_VERSION_WITHOUT_PLACE { 0 } else { at as u32 };
        let crc = crc32c(SALT ^ place, &bytes[at + 4..at + HEADER_BYTES]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        if let Some((chain, _)) = &mut chained {
            **chain = crc;
        }
        let header = Header::decode(&bytes[at..], segment.seed().at(at as u32), segment.life);
        assert!(matches!(header, Ok(_) | Err(record::NoHeader::UnknownType(_))));
        let next = (at + HEADER_BYTES + len).next_multiple_of(8);
        // A write begins at a block.
        let begins = bytes.get(next + 20).is_some_and(|kind| kind & 0x80 != 0);
        at = if begins { next.next_multiple_of(4096) } else { next };
    }
}

/// The checksum of the formats, bit by bit: here it must not be the code under test.
fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    static TABLE: std::sync::LazyLock<[u32; 256]> = std::sync::LazyLock::new(|| {
        std::array::from_fn(|byte| {
            (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
        })
    });
    !bytes.iter().fold(!start, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

// ---- the checkpoint ----

/// A checkpoint; if the first byte is odd its blocks' numbers and checksums are put right, and the next bit says which version
/// it is told to be of.
pub fn checkpoint(input: &[u8]) {
    let Some((how, input)) = input.split_first() else { return };
    let mut bytes = input.to_vec();
    if how & 1 != 0 && bytes.len() >= 16 {
        bytes[..8].copy_from_slice(b"urd-ckp\n");
        bytes[8..12].copy_from_slice(&(1 + u32::from(how >> 1 & 1)).to_le_bytes());
        let mut chain = crc32c(0, &bytes[..12]);
        bytes[12..16].copy_from_slice(&chain.to_le_bytes());
        let mut at = 16;
        for number in 0u32.. {
            if at + 16 > bytes.len() {
                break;
            }
            let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("4 bytes")) as usize;
            let len = len.min(bytes.len() - at - 16);
            bytes[at + 4..at + 8].copy_from_slice(&(len as u32).to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&number.to_le_bytes());
            bytes[at + 13..at + 16].fill(0);
            chain = crc32c(chain, &bytes[at + 4..at + 16 + len]);
            bytes[at..at + 4].copy_from_slice(&chain.to_le_bytes());
            at += 16 + len;
        }
    }
    if let Ok(found) = checkpoint::decode(&mut &bytes[..]) {
        let mut again = Vec::new();
        checkpoint::encode(&found.state, &found.head, &mut again).expect("a vector takes everything");
        let same = checkpoint::decode(&mut &again[..]).expect("what was written is read");
        assert_eq!(same.head, found.head);
        assert_eq!(same.state.index.live_keys(), found.state.index.live_keys());
    }
}

// ---- requests ----

/// The bytes of entries, each in a segment of its own.
#[derive(Default)]
struct Log(HashMap<u32, Bytes>);

impl Values for Log {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        let bytes = &self.0[&place.segment];
        Ok(bytes.slice(place.offset as usize..(place.offset + place.len) as usize))
    }
}

fn decodes<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(Bytes::copy_from_slice(bytes)).ok()?;
    // What was understood is what is passed on.
    assert!(M::decode(Bytes::from(message.encode_to_vec())).is_ok_and(|again| again == message));
    Some(message)
}

/// A sequence of requests: a byte that says which, a byte of length, so many bytes of message. Those that a client may have
/// logged are checked, wrapped, and applied.
pub fn request(input: &[u8]) {
    let mut rest = input;
    let mut state = State::new(2);
    let mut log = Log::default();
    while let [which, len, tail @ ..] = rest {
        let (body, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        let kind = match which % 48 {
            0 => decodes::<PutRequest>(body).filter(|it| check::check_put(it).is_ok()).map(|_| request::Kind::Put),
            1 => decodes::<DeleteRangeRequest>(body)
                .filter(|it| check::check_delete_range(it).is_ok())
                .map(|_| request::Kind::DeleteRange),
            2 => decodes::<TxnRequest>(body)
                .filter(|it| check::check_txn(it, 128).is_ok())
                .inspect(|it| {
                    check::is_read_only(it);
                    check::is_serializable(it);
                })
                .map(|_| request::Kind::Txn),
            3 => decodes::<CompactionRequest>(body).map(|_| request::Kind::Compaction),
            4 => decodes::<LeaseGrantRequest>(body).map(|_| request::Kind::LeaseGrant),
            5 => decodes::<LeaseRevokeRequest>(body).map(|_| request::Kind::LeaseRevoke),
            6 => decodes::<AlarmRequest>(body).map(|_| request::Kind::Alarm),
            7 => {
                // Whatever a member of the cluster might have logged.
                apply(&mut state, &mut log, Bytes::copy_from_slice(body));
                None
            }
            8 => {
                if let Some(range) = decodes::<RangeRequest>(body) {
                    let _ = (check::check_range(&range), check::check_range_stream(&range));
                    let revision = state.index.current();
                    let _ =
                        urd::store::range::answer(&state.index, &range, revision, &mut |kv| log.value(kv.meta.place));
                }
                None
            }
            9 => {
                if let Some(txn) = decodes::<TxnRequest>(body)
                    && check::check_txn(&txn, 128).is_ok()
                    && check::is_read_only(&txn)
                {
                    let _ = urd::store::txn::read(&state.index, &txn, &log);
                }
                None
            }
            10 => {
                let _ = decodes::<raftpb::ConfChange>(body).map(|change| {
                    let index = state.applied().0 + 1;
                    state.apply_conf_change(index, 1, &change)
                });
                None
            }
            which => {
                others(which, body);
                None
            }
        };
        if let Some(kind) = kind {
            let data = request::internal(kind, body, u64::from(*which) + 1);
            assert!(InternalRaftRequest::decode(data.clone()).is_ok(), "what is logged can be read");
            apply(&mut state, &mut log, data);
        }
    }
    let mut bytes = Vec::new();
    checkpoint::encode(&state, &Default::default(), &mut bytes).expect("a vector takes everything");
    let restored = checkpoint::decode(&mut &bytes[..]).expect("whatever was applied can be restored").state;
    let mut again = Vec::new();
    checkpoint::encode(&restored, &Default::default(), &mut again).expect("a vector takes everything");
    assert!(bytes == again, "restored, it is the same");
    for event in state.index.event_refs(Revision::ZERO, i64::MAX) {
        assert_eq!(log.value(event.meta.place).expect("it is in memory").len(), event.meta.place.len as usize);
    }
}

fn apply(state: &mut State, log: &mut Log, data: Bytes) {
    let index = state.applied().0 + 1;
    let base = Place { segment: index as u32, offset: 0, len: data.len() as u32 };
    log.0.insert(index as u32, data.clone());
    let entry = ApplyEntry { index, term: 1, base, data, quota_room: Some(1 << 20) };
    let _ = state.apply(&entry, log, &mut AppliedBatch::default());
    if state.index.compacting() {
        let _ = state.index.compaction_step(7, &mut |_| {});
    }
}

/// The requests that are only decoded.
fn others(which: u8, body: &[u8]) {
    macro_rules! decode {
        ($($number:literal $message:ty,)*) => {
            match which {
                $($number => drop(decodes::<$message>(body)),)*
                _ => {}
            }
        };
    }
    decode! {
        11 WatchRequest, 12 LeaseKeepAliveRequest, 13 LeaseTimeToLiveRequest, 14 LeaseLeasesRequest,
        15 MemberListRequest, 16 StatusRequest, 17 HashRequest, 18 HashKvRequest, 19 DefragmentRequest,
        20 InternalRaftRequest, 21 raftpb::Message, 22 raftpb::Entry, 23 raftpb::ConfChangeV2, 24 raftpb::Snapshot,
        25 raftpb::ConfState, 26 raftpb::HardState, 27 MemberAddRequest, 28 MemberUpdateRequest, 29 AuthUserAddRequest,
        30 AuthRoleGrantPermissionRequest, 31 AuthenticateRequest, 32 DowngradeRequest, 33 SnapshotRequest,
        34 MoveLeaderRequest, 35 LeaseCheckpointRequest, 36 RangeResponse, 37 WatchResponse, 38 TxnResponse,
        39 AuthUserGrantRoleRequest, 40 AuthRoleAddRequest, 41 MemberPromoteRequest, 42 MemberRemoveRequest,
        43 urd::proto::grpc::health::v1::HealthCheckRequest,
    }
}

// ---- JSON ----

/// JSON for one of the gateway's messages: the first byte says which, and in what pieces the scanner is given it. What is read
/// is written again, read again, and the same.
pub fn json(input: &[u8]) {
    const NAMES: [&str; 16] = [
        "etcdserverpb.RangeRequest",
        "etcdserverpb.PutRequest",
        "etcdserverpb.TxnRequest",
        "etcdserverpb.WatchRequest",
        "etcdserverpb.LeaseGrantRequest",
        "etcdserverpb.AlarmRequest",
        "etcdserverpb.AuthUserAddRequest",
        "etcdserverpb.AuthRoleGrantPermissionRequest",
        "etcdserverpb.MemberAddRequest",
        "v3electionpb.ProclaimRequest",
        "etcdserverpb.RangeResponse",
        "etcdserverpb.TxnResponse",
        "etcdserverpb.WatchResponse",
        "etcdserverpb.StatusResponse",
        "etcdserverpb.MemberListResponse",
        "etcdserverpb.HashKVResponse",
    ];
    let Some((how, text)) = input.split_first() else { return };
    let message = Schema::message(NAMES[usize::from(how & 15)]).expect("it travels through the gateway");
    let mut scanner = Scanner::default();
    let mut end = None;
    let piece = [usize::MAX, 1, 7, 64][usize::from(how >> 4 & 3)].min(text.len().max(1));
    for (at, piece) in text.chunks(piece).enumerate().map(|(at, bytes)| (at * piece, bytes)) {
        match scanner.scan(piece) {
            Scan::More => {}
            Scan::Value(len) => {
                end = Some(at + len);
                break;
            }
            Scan::Bad(_) => return,
        }
    }
    let Some(end) = end else {
        scanner.end();
        return;
    };
    let written = |bytes: &[u8], escape| {
        let mut writer = Writer::new(message, bytes.len(), escape);
        let (mut input, mut out) = (Input::default(), Vec::new());
        input.push(Bytes::copy_from_slice(bytes));
        let step = writer.write(&mut input, &mut out, usize::MAX);
        (step, out)
    };
    // Whatever it is, it is written or is broken.
    let _ = written(text, Escape::Json);
    let Ok(Read::Message(bytes)) = read(message, &text[..end], 1 << 20) else { return };
    for escape in [Escape::Json, Escape::Html] {
        let (step, out) = written(&bytes, escape);
        assert_eq!(step, Step::Done, "what is read can be written");
        assert_eq!(Scanner::default().scan(&out), Scan::Value(out.len()), "what is written is JSON");
        match read(message, &out, 1 << 20) {
            Ok(Read::Message(again)) => assert!(again == bytes, "nothing is lost on the way"),
            other => panic!("{other:?}"),
        }
    }
}

// ---- gRPC ----

struct Service;

const METHODS: [(&str, Shape); 4] = [
    ("/etcdserverpb.KV/Range", Shape::Unary),
    ("/etcdserverpb.KV/Put", Shape::Unary),
    ("/etcdserverpb.Watch/Watch", Shape::Stream),
    ("/etcdserverpb.Lease/LeaseKeepAlive", Shape::Stream),
];

fn echo(message: &[u8]) -> Frame {
    let mut frame = Frame::with_capacity(message.len());
    frame.buffer().put_slice(message);
    frame
}

impl Handler for Service {
    fn route(&self, path: &str) -> Option<Route> {
        let method = METHODS.iter().position(|(name, _)| *name == path)?;
        Some(Route { method: method as u16, shape: METHODS[method].1 })
    }

    fn knows_service(&self, service: &str) -> bool {
        service.starts_with("etcdserverpb.")
    }

    fn unary(self: Rc<Self>, method: u16, _: Call, message: Bytes) -> Unary {
        match method {
            0 => Unary::Ready(Ok(echo(&message))),
            _ => Unary::Later(Box::pin(async move {
                runtime::yield_now().await;
                Err::<Frame, Status>(error::NO_LEADER)
            })),
        }
    }

    fn stream(
        self: Rc<Self>,
        _: u16,
        _: Call,
        mut requests: Requests,
        mut replies: Replies,
    ) -> LocalBoxFuture<Result<(), Status>> {
        Box::pin(async move {
            while let Some(message) = requests.next().await {
                let message = message?;
                if replies.queued_bytes() > 1 << 16 || replies.send([echo(&message).seal()]).is_err() {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// The client: says its bytes in pieces, takes what comes, and is gone.
struct Client {
    input: Bytes,
    piece: usize,
    /// Turns that it takes nothing.
    deaf: usize,
    ended: Rc<Cell<bool>>,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let len = self.input.len().min(self.piece).min(buffer.remaining());
        let piece = self.input.split_to(len);
        buffer.put_slice(&piece);
        if self.deaf > 0 {
            self.deaf -= 1;
            context.waker().wake_by_ref();
        }
        std::task::Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        if self.deaf > 0 {
            self.deaf -= 1;
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ended.set(true);
    }
}

type Job = (Bytes, mpsc::Sender<()>);

/// A connection: the first byte says in what pieces it comes (and whether its answers are taken), the rest is what the
/// client sends; with the first bit set, behind a preface and SETTINGS.
pub fn grpc(input: &[u8]) {
    thread_local! {
        static EXECUTOR: mpsc::Sender<Job> = executor();
    }
    let (done, ended) = mpsc::channel();
    EXECUTOR.with(|jobs| jobs.send((Bytes::copy_from_slice(input), done))).expect("the executor lives");
    ended.recv_timeout(Duration::from_secs(30)).expect("a connection whose client is gone ends");
}

/// One for all inputs of a thread.
fn executor() -> mpsc::Sender<Job> {
    let (jobs, todo) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        runtime::executors::run_one(move || async move {
            let settings = Rc::new(Settings { max_concurrent_streams: 64, ..Settings::new() });
            // Nothing else runs here: this may block.
            while let Ok((input, done)) = todo.recv() {
                connection(&input, settings.clone()).await;
                assert_eq!(settings.counters.requests_active.get(), 0, "every call has ended");
                assert_eq!(settings.counters.connections.get(), 0, "every connection has ended");
                let _ = done.send(());
            }
        })
        .expect("io_uring is there");
    });
    jobs
}

async fn connection(input: &[u8], settings: Rc<Settings>) {
    let Some((how, rest)) = input.split_first() else { return };
    let mut bytes = BytesMut::new();
    if how & 1 != 0 {
        bytes.put_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    }
    bytes.put_slice(rest);
    let ended = Rc::new(Cell::new(false));
    let piece = match how >> 1 & 3 {
        0 => usize::MAX,
        1 => 1,
        2 => 7,
        _ => 100,
    };
    let client = Client { input: bytes.freeze(), piece, deaf: usize::from(how >> 3), ended: ended.clone() };
    runtime::spawn(serve(client, Origin::default(), None, Rc::new(Service), settings.clone(), Drain::new()));
    while !ended.get() || settings.counters.connections.get() > 0 {
        runtime::yield_now().await;
    }
}
