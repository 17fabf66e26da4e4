use prost::Message;

use super::*;
use crate::{
    api::testing::{Bench, CLUSTER_ID, MEMBER_ID, TERM},
    proto::etcdserverpb::{PutRequest, RangeResponse, RangeStreamResponse, ResponseHeader},
};

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

/// Every message of a stream.
fn streamed(bench: &Bench, request: &RangeRequest) -> Vec<RangeResponse> {
    let (shard, view) = (bench.shard().clone(), bench.shard().view());
    crate::runtime::run_test(async move {
        let mut chunks = Chunks::new(&shard, &view, request);
        let mut messages = Vec::new();
        while let Some(body) = chunks.next(&shard, &view, request).await.unwrap() {
            let [head, body] = wrap(body);
            let whole = [&head[..], &body[..]].concat();
            assert_eq!(whole[..PREFIX_BYTES], [&[0], &(whole.len() as u32 - 5).to_be_bytes()[..]].concat());
            let message = RangeStreamResponse::decode(&whole[PREFIX_BYTES..]).unwrap();
            messages.push(message.range_response.expect("each message carries a part"));
        }
        messages
    })
}

fn key_counts(messages: &[RangeResponse]) -> Vec<usize> {
    messages.iter().map(|message| message.kvs.len()).collect()
}

/// The numbers of keys in etcd 3.7.3's messages for the same keys: those of `m`, `s` and `x` with `y`.
#[test]
fn messages_are_cut_where_etcd_cuts_them() {
    let mut bench = Bench::new();
    bench.load("m", 2000, 3000);
    bench.load("s", 3000, 10);
    bench.load("x", 300, 10);
    bench.load("y", 60, 150_000);
    let counts = |request: RangeRequest| key_counts(&streamed(&bench, &request));
    assert_eq!(counts(range("m", "n")), [10, 20, 40, 80, 160, 320, 320, 320, 320, 320, 90]);
    assert_eq!(counts(range("s", "t")), [10, 20, 40, 80, 160, 320, 640, 1280, 450]);
    assert_eq!(counts(range("x", "z")), [10, 20, 40, 80, 160, 50]);
    assert_eq!(counts(RangeRequest { limit: 25, ..range("m", "n") }), [10, 15]);
    assert_eq!(counts(RangeRequest { limit: 30, ..range("m", "n") }), [10, 20]);
    assert_eq!(counts(range("x00000", "")), [1]);
    assert_eq!(counts(range("q", "r")), [0]);
}

#[test]
fn only_the_last_message_has_header_more_and_count() {
    let mut bench = Bench::new();
    bench.load("m", 70, 5);
    let header = Some(ResponseHeader {
        cluster_id: CLUSTER_ID,
        member_id: MEMBER_ID,
        revision: bench.state.index.current(),
        raft_term: TERM,
    });
    for (limit, sent) in [(0, 70), (-1, 70), (70, 70), (69, 69), (30, 30), (10, 10), (3, 3), (100, 70)] {
        let messages = streamed(&bench, &RangeRequest { limit, ..range("m", "n") });
        let (last, before) = messages.split_last().unwrap();
        assert_eq!((last.header, last.more, last.count), (header, sent < 70, 70), "limit {limit}");
        for message in before {
            assert_eq!((message.header, message.more, message.count), (None, false, 0), "limit {limit}");
        }
        let keys: Vec<_> = messages.iter().flat_map(|message| &message.kvs).map(|kv| kv.key.clone()).collect();
        let wanted: Vec<_> = (0..sent).map(|at| Bytes::from(format!("m{at:05}"))).collect();
        assert_eq!(keys, wanted, "limit {limit}");
    }
    let counted = streamed(&bench, &RangeRequest { count_only: true, limit: 5, ..range("m", "n") });
    assert_eq!(counted, [RangeResponse { header, count: 70, ..Default::default() }]);
}

#[test]
fn what_is_written_meanwhile_is_not_seen() {
    let mut bench = Bench::new();
    bench.load("m", 40, 5);
    let (shard, view) = (bench.shard().clone(), bench.shard().view());
    let request = range("m", "n");
    let mut chunks = Chunks::new(&shard, &view, &request);
    let mut next = || crate::runtime::run_test(chunks.next(&shard, &view, &request)).unwrap();
    assert!(next().is_some());
    bench.load("m", 90, 7);
    let rest: usize = std::iter::from_fn(next)
        .map(|frame| RangeResponse::decode(frame.message()).unwrap())
        .map(|message| {
            assert!(message.kvs.iter().all(|kv| kv.value.len() == 5));
            message.kvs.len()
        })
        .sum();
    assert_eq!(rest, 30);
}

/// As etcd sorts: within each message. Which keys are in it is decided by key, so that each comes once.
#[test]
fn a_sort_target_without_an_order_sorts_within_each_message() {
    let mut bench = Bench::new();
    // Values and revisions fall as keys rise.
    for at in (0..35).rev() {
        let (key, value) = (format!("m{at:05}").into(), format!("v{:05}", 34 - at).into());
        bench.call("/etcdserverpb.KV/Put", &PutRequest { key, value, ..Default::default() }).unwrap();
    }
    let by = |target: SortTarget, limit| RangeRequest { sort_target: target.into(), limit, ..range("m", "n") };
    let numbers = |messages: &[RangeResponse]| -> Vec<Vec<u32>> {
        let number = |key: &[u8]| std::str::from_utf8(&key[1..]).unwrap().parse().unwrap();
        messages.iter().map(|message| message.kvs.iter().map(|kv| number(&kv.key)).collect()).collect()
    };
    let falling = |from: u32, to: u32| (from..to).rev().collect::<Vec<u32>>();
    for cold in [false, true] {
        if cold {
            bench.cool_segments();
        }
        for target in [SortTarget::Mod, SortTarget::Create, SortTarget::Value] {
            let all = streamed(&bench, &by(target, 0));
            assert_eq!(numbers(&all), [falling(0, 10), falling(10, 30), falling(30, 35)]);
            assert_eq!((all[2].more, all[2].count), (false, 35));
            assert_eq!(numbers(&streamed(&bench, &by(target, -3))), [falling(0, 35)]);
            // A limit is seen to cut by a look at one key more, and the one that sorts last goes: as in a Range.
            let cut = streamed(&bench, &by(target, 4));
            assert_eq!(numbers(&cut), [falling(1, 5)]);
            assert!(cut[0].more);
            let ranged: RangeResponse = bench.ask("/etcdserverpb.KV/Range", &by(target, 4)).unwrap();
            assert_eq!(ranged.kvs, cut[0].kvs);
        }
        // All of one version: in order of key.
        assert_eq!(numbers(&streamed(&bench, &by(SortTarget::Version, 3))), [[0, 1, 2]]);
    }
}

#[test]
fn a_negative_limit_makes_one_message() {
    let mut bench = Bench::new();
    bench.load("m", 600, 5);
    assert_eq!(key_counts(&streamed(&bench, &RangeRequest { limit: -1, ..range("m", "n") })), [600]);
}

#[test]
fn large_messages_are_halved() {
    let mut bench = Bench::with(|config| config.max_request_bytes = 200_000);
    bench.load("x", 30, 10);
    bench.load("y", 100, 19_000);
    let messages = streamed(&bench, &range("x", "z"));
    // 40 keys of 19 kB are more than twice 200 kB; 20 are not.
    assert_eq!(key_counts(&messages), [10, 20, 40, 20, 20, 20]);
}

#[test]
fn a_pin_expires_with_age_alone() {
    let bench = Bench::new();
    let shard = bench.shard();
    shard.tick(5_000);
    let mut pin = Box::pin(shard.pin_expires());
    let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    shard.tick(5_000 + limits::STREAM_PIN_MS_MAX);
    assert!(pin.as_mut().poll(context).is_pending());
    shard.tick(5_001 + limits::STREAM_PIN_MS_MAX);
    assert!(pin.as_mut().poll(context).is_ready());
}
