//! Replays what the fuzzer has found worth keeping (`fuzz/`): inputs that once broke something, and for each target a
//! corpus that reaches most of its code. Then mutates them blindly for a while, as a fuzzer without eyes:
//! `URD_FUZZ_SECONDS` for each target (2). Writes seeds of the corpus from the samples of the formats and from requests, with
//! `URD_FUZZ_SEEDS=directory`.

mod targets;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use prost::Message;
use targets::TARGETS;
use urd::{
    bolt::write::{Part, Planner, Writer},
    proto::etcdserverpb::*,
};
use urd_client::{op, raw};

fn corpus(target: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

#[test]
fn what_the_fuzzer_has_kept_goes_through() {
    let mut told = Vec::new();
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus(name)).unwrap_or_else(|cause| panic!("no corpus of {name}: {cause}")) {
            let path = entry.unwrap().path();
            // Tells which it was, if it is the last line.
            println!("{}", path.display());
            target(&fs::read(path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "no inputs of {name}");
        told.push(format!("{name} {inputs}"));
    }
    println!("replayed: {}", told.join(", "));
}

#[test]
fn seeds_and_what_becomes_of_them_go_through() {
    let seconds = std::env::var("URD_FUZZ_SECONDS").ok().map_or(2, |text| text.parse().expect("a number of seconds"));
    for (name, seeds) in seeds() {
        let target = TARGETS.iter().find(|(target, _)| *target == name).unwrap().1;
        for (at, input) in seeds.iter().enumerate() {
            target(input);
            if let Some(to) = std::env::var_os("URD_FUZZ_SEEDS") {
                let dir = Path::new(&to).join(name);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("seed-{at}")), input).unwrap();
            }
        }
        let mut random = Random(1);
        let (begin, mut executions) = (Instant::now(), 0u64);
        while begin.elapsed() < Duration::from_secs(seconds) {
            let input = mutated(&seeds, &mut random);
            // What breaks it is the file to look at.
            let last = std::env::temp_dir().join(format!("urd-fuzz-{name}-{}", std::process::id()));
            let sound = std::panic::catch_unwind(|| target(&input));
            if let Err(panic) = sound {
                fs::write(&last, &input).unwrap();
                eprintln!("{name}: the input is in {}", last.display());
                std::panic::resume_unwind(panic);
            }
            executions += 1;
        }
        println!("{name}: {} seeds, {executions} mutations of them", seeds.len());
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound.max(1) as u64) as usize
    }
}

/// A seed with a few things done to it: bytes changed, cut out, put in, repeated, or the end of another.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len());
        let to = at + random.below((input.len() - at).min(40));
        match random.below(8) {
            0 | 1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            2 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = [0, 1, 0x7f, 0x80, 0xff][random.below(5)]),
            3 => input.truncate(at),
            4 => drop(input.drain(at..to)),
            5 => {
                let piece = input[at..to].to_vec();
                (0..1 + random.below(20)).for_each(|_| drop(input.splice(at..at, piece.iter().copied())));
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.insert(at, random.below(256) as u8),
        }
    }
    input.truncate(16_384);
    input
}

fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/v1");
    let segment = fs::read(samples.join("00000001.seg")).unwrap();
    let records = |how: u8, from: usize, to: usize| [&[how], &segment[from..to]].concat();
    let records = vec![
        records(0, 4096, 12288),
        records(1, 4096, 12288),
        records(3, 4096, 16384),
        records(7, 4096, 16384),
        records(3, 12288, 16384),
        records(1, 0x2000, 0x2100),
    ];
    let checkpoint = fs::read(samples.join("checkpoint")).unwrap();
    let checkpoints = vec![[&[0], &checkpoint[..]].concat(), [&[1], &checkpoint[..]].concat()];
    vec![
        ("record", records),
        ("checkpoint", checkpoints),
        ("database", databases()),
        ("request", requests()),
        ("grpc", connections()),
        ("json", texts()),
    ]
}

/// JSON of every kind of message, in whole and in pieces.
fn texts() -> Vec<Vec<u8>> {
    [
        (0, r#"{"key":"Zm9v","range_end":"AA==","limit":"2","sort_order":"ASCEND","sortTarget":4,"serializable":true}"#),
        (1, r#"{"key":"Zm9v","value":"dmFsdWU-P34","lease":1e3,"prevKv":null,"x":[{"y":"\ud83d\ude00"}]}"#),
        (
            2,
            r#"{"compare":[{"target":"VERSION","result":1,"key":"YQ==","version":"-1"}],"success":[{"request_put":{"key":"YQ=="}},{"request_txn":{"failure":[{"requestRange":{"key":"AA"}},{}]}}]}"#,
        ),
        (3, r#"{"create_request":{"key":"AA==","filters":["NOPUT",1],"fragment":true}} {"progress_request":{}}"#),
        (4, r#"{"TTL":"60","ID":9223372036854775807}"#),
        (5, r#"{"action":"ACTIVATE","memberID":"18446744073709551615","alarm":"NOSPACE"}"#),
        (6, r#"{"name":"\u0000<>&\u2028\"","password":"","options":{"no_password":true}}"#),
        (7, r#"{"name":"r","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}"#),
        (8, r#"{"peerURLs":["http://a:1","b"],"isLearner":false}"#),
        (10, r#"{"header":{"revision":"3"},"kvs":[{"key":"YQ==","version":"1"},{}],"more":true}"#),
        (12, r#"{"watch_id":"-1","canceled":true,"cancel_reason":"a","events":[{"type":"DELETE","kv":{}}]}"#),
    ]
    .iter()
    .flat_map(|(which, text)| [*which, which | 0x10, which | 0x20].map(|how| [&[how], text.as_bytes()].concat()))
    .collect()
}

/// Databases of four pages, of what each bucket may hold.
fn databases() -> Vec<Vec<u8>> {
    type Entries = &'static [(&'static [u8], &'static [u8])];
    const KEY: Entries = &[
        (b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x05value\x30\x07"),
        (b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\0", b"\x0a\x01l\x10\x03\x18\x03\x20\x01"),
        (b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\x01t", b"\x0a\x01k"),
        (b"\0\0\0\0\0\0\0\x09_\0\0\0\0\0\0\0\0", b""),
    ];
    const META: Entries = &[
        (b"confState", br#"{"voters":[255],"auto_leave":false}"#),
        (b"consistent_index", b"\0\0\0\0\0\0\0\x05"),
        (b"finishedCompactRev", b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0"),
        (b"scheduledCompactRev", b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\0"),
        (b"storageVersion", b"3.7.0"),
        (b"term", b"\0\0\0\0\0\0\0\x02"),
    ];
    let all: [(&str, Entries); 9] = [
        ("alarm", &[(b"\x08\x05\x10\x01", b"")]),
        ("auth", &[(b"authEnabled", b"\0"), (b"authRevision", b"\0\0\0\0\0\0\0\x01")]),
        ("authUsers", &[(b"root", b"\x0a\x04root")]),
        ("cluster", &[(b"clusterVersion", b"3.7.0"), (b"downgrade", br#"{"target-version":"3.6.0","enabled":true}"#)]),
        ("key", KEY),
        ("lease", &[(b"\0\0\0\0\0\0\0\x07", b"\x08\x07\x10\x3c")]),
        ("members", &[(b"ff", br#"{"id":255,"peerURLs":["http://a"],"name":"n"}"#)]),
        ("members_removed", &[(b"3", b"removed")]),
        ("meta", META),
    ];
    let file = |buckets: &[(&str, Entries)]| {
        let mut planner = Planner::default();
        for (name, entries) in buckets {
            planner.bucket(name, entries.iter().map(|(key, value)| (key.len(), value.len())));
        }
        let mut writer = Writer::<()>::new(planner.finish());
        for (_, entries) in buckets {
            entries.iter().for_each(|(key, value)| writer.entry(key, &[Part::Bytes(value)]));
            writer.end_bucket();
        }
        writer.finish();
        // What is cut off its end is zeros.
        let mut input = [&[1], &writer.out()[..]].concat();
        input.truncate(16_384);
        input
    };
    vec![file(&all), file(&all[4..5]), file(&all[8..]), file(&[])]
}

fn framed(which: u8, message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    [&[which, u8::try_from(body.len()).expect("a short one")], &body[..]].concat()
}

fn requests() -> Vec<Vec<u8>> {
    let put =
        |key: &'static str, lease| PutRequest { key: key.into(), value: "value".into(), lease, ..Default::default() };
    let success = vec![op::put("t", "1"), op::get("t"), op::delete_range("a", "z"), op::put("u", "2")];
    let compare = vec![op::unchanged("k", 2), op::version("k", 1)];
    let txn = TxnRequest {
        compare,
        success,
        failure: vec![op::txn(TxnRequest { success: vec![op::get("k")], ..Default::default() })],
    };
    let range = RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        sort_order: 2,
        sort_target: 4,
        limit: 3,
        ..Default::default()
    };
    let create = WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        start_revision: 1,
        prev_kv: true,
        ..Default::default()
    };
    let watch = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let grant = framed(4, &LeaseGrantRequest { id: 7, ttl: 60 });
    let delete = DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let compact = CompactionRequest { revision: 3, physical: true };
    let internal = InternalRaftRequest { put: Some(put("raw", 0)), ..Default::default() };
    vec![
        [grant.clone(), framed(0, &put("k", 7)), framed(2, &txn), framed(8, &range)].concat(),
        [framed(0, &put("k", 0)), framed(1, &delete), framed(0, &put("l", 0)), framed(3, &compact)].concat(),
        [grant, framed(0, &put("k", 7)), framed(5, &LeaseRevokeRequest { id: 7 })].concat(),
        framed(6, &AlarmRequest { action: 1, member_id: 5, alarm: 1 }),
        framed(7, &internal),
        framed(9, &TxnRequest { success: vec![op::get("k")], ..Default::default() }),
        framed(11, &watch),
        [framed(20, &internal), framed(0, &put("z", 0)), framed(8, &range)].concat(),
    ]
}

fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn connections() -> Vec<Vec<u8>> {
    let head = |path: &str| {
        raw::header_block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "5S"),
            ("grpc-encoding", "gzip"),
        ])
    };
    let message = |body: &[u8]| [&[0], &(body.len() as u32).to_be_bytes()[..], body].concat();
    let call = |stream, path: &str, end: u8| {
        [h2(1, 4, stream, &head(path)), h2(0, end, stream, &message(b"\x0a\x01k"))].concat()
    };
    let all = [
        call(1, "/etcdserverpb.KV/Range", 1),
        call(3, "/etcdserverpb.KV/Put", 1),
        call(5, "/etcdserverpb.Watch/Watch", 0),
        h2(8, 0, 0, &[0, 1, 0, 0]),
        h2(6, 0, 0, b"pingping"),
        h2(3, 0, 5, &[0, 0, 0, 8]),
        call(7, "/no.Such/Method", 1),
        h2(4, 0, 0, &[0, 4, 0, 0, 0, 0]),
        h2(7, 0, 0, &[0; 8]),
    ]
    .concat();
    let block = head("/etcdserverpb.KV/Range");
    let split = [h2(1, 0, 1, &block[..9]), h2(9, 0, 1, &block[9..20]), h2(9, 4, 1, &block[20..])].concat();
    vec![
        [&[1], &all[..]].concat(),
        [&[3], &all[..]].concat(),
        [&[0x81 | 4], &all[..]].concat(),
        [&[1], &split[..], &h2(0, 1, 1, &message(&[7; 300]))[..]].concat(),
        [&[0], &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &h2(4, 0, 0, &[0, 3, 0, 0, 0, 9]), &all[..]].concat(),
        [&[1], &h2(1, 5, 1, &block)[..]].concat(),
        [&[1], &h2(1, 0x2c, 1, &[&[2, 0, 0, 0, 0, 16], &block[..], &[0, 0]].concat())[..]].concat(),
    ]
}
