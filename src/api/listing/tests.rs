use bytes::Bytes;
use prost::Message as _;

use super::super::testing::{Bench, Gathered};
use crate::{
    error::{self, Status},
    grpc::{Handler as _, Unary},
    limits,
    proto::etcdserverpb::{DeleteRangeRequest, RangeRequest, RangeResponse},
    runtime,
    store::types::{Place, Revision},
    wire::frame::PREFIX_BYTES,
};

const PATH: &str = "/etcdserverpb.KV/Range";

/// So many others are being answered that pieces are as small as they get.
const OTHERS: usize = 1000;

fn all() -> RangeRequest {
    RangeRequest { key: "m".into(), range_end: "n".into(), serializable: true, ..Default::default() }
}

/// Has a request answered in parts.
fn answer(bench: &Bench, request: &RangeRequest, taker: &Gathered) -> Result<Bytes, Status> {
    let services = bench.services.clone();
    let route = services.route(PATH).unwrap();
    let call = crate::api::testing::plain_call(crate::grpc::Metadata::default());
    match services.unary(route.method, call, request.encode_to_vec().into()) {
        Unary::InParts(make) => {
            runtime::run_test(make(Box::new(taker.clone()))).map(|()| taker.message().seal().slice(PREFIX_BYTES..))
        }
        _ => panic!("{request:?} is not answered in parts"),
    }
}

#[test]
fn pieces_are_small_and_the_same_message_together() {
    let mut bench = Bench::new();
    bench.load("m", 3000, 400);
    let old = bench.state.index.current();
    // Half of them are changed, some go: the old revision is read as it was.
    bench.load("m", 1500, 300);
    let gone = DeleteRangeRequest { key: "m00100".into(), range_end: "m00200".into(), ..Default::default() };
    bench.call("/etcdserverpb.KV/DeleteRange", &gone).unwrap();
    let others = bench.services.shard.long_answers.clone();
    for cold in [false, true] {
        if cold {
            bench.cool_segments();
        }
        for (revision, limit, keys_only, sent) in
            [(0, 0, false, 2900), (old, 0, false, 3000), (old, 2500, false, 2500), (0, 0, true, 2900)]
        {
            let request = RangeRequest { revision, limit, keys_only, ..all() };
            let whole = Gathered { whole: true, ..Gathered::default() };
            let wanted = answer(&bench, &request, &whole).unwrap();
            let decoded = RangeResponse::decode(wanted.clone()).unwrap();
            assert_eq!((decoded.kvs.len(), decoded.more), (sent, limit > 0));
            assert_eq!(decoded.count, if revision == 0 { 2900 } else { 3000 });
            let value_len = |at: usize| {
                if keys_only {
                    0
                } else if revision == 0 && at < 1400 {
                    300
                } else {
                    400
                }
            };
            assert!(decoded.kvs.iter().enumerate().all(|(at, kv)| kv.value.len() == value_len(at)));
            assert!(decoded.kvs.iter().all(|kv| kv.value.iter().all(|byte| *byte == b'v')));

            others.set(OTHERS);
            let taker = Gathered::default();
            assert_eq!(answer(&bench, &request, &taker).unwrap(), wanted);
            assert_eq!(others.get(), OTHERS, "its share is given back");
            let sizes = taker.sizes();
            assert_eq!(sizes.len(), (wanted.len() + PREFIX_BYTES).div_ceil(limits::LISTING_PIECE_BYTES_MIN + 500));
            assert!(sizes.iter().all(|size| *size <= limits::LISTING_PIECE_BYTES_MIN + 500), "{sizes:?}");
            others.set(0);
            assert_eq!(answer(&bench, &request, &Gathered::default()).unwrap(), wanted);
        }
    }
}

#[test]
fn nothing_is_made_for_a_caller_that_has_gone() {
    let mut bench = Bench::new();
    bench.load("m", 3000, 400);
    bench.services.shard.long_answers.set(OTHERS);
    let taker = Gathered { gone_after: Some(2), ..Gathered::default() };
    assert_eq!(answer(&bench, &all(), &taker), Err(error::CONTEXT_CANCELED));
    assert_eq!(taker.sizes().len(), 2);
    assert_eq!(bench.services.shard.long_answers.get(), OTHERS);
}

#[test]
fn a_listing_that_grpc_cannot_carry_is_refused_before_it_begins() {
    let mut bench = Bench::new();
    let len = 1 << 21;
    for at in 0..1100 {
        let place = Place { segment: 1, offset: 0, len };
        bench.state.index.put(Revision::new(2, at), format!("m{at:05}").as_bytes(), 0, place);
    }
    bench.state.index.set_current(2);
    bench.forget_segments();
    let taker = Gathered::default();
    let refused = answer(&bench, &all(), &taker).unwrap_err();
    assert_eq!(refused.code, error::Code::ResourceExhausted);
    assert!(refused.message.starts_with("grpc: trying to send message larger than max (23"), "{}", refused.message);
    assert!(taker.sizes().is_empty());
    // Without the values it is carried.
    answer(&bench, &RangeRequest { keys_only: true, ..all() }, &taker).unwrap();
}

#[test]
fn a_value_that_cannot_be_read_ends_the_answer() {
    let mut bench = Bench::new();
    bench.load("m", 3000, 400);
    bench.forget_segments();
    let refused = answer(&bench, &all(), &Gathered::default()).unwrap_err();
    assert_eq!(refused.code, error::Code::Internal);
}

#[test]
fn short_and_unordered_answers_are_not_made_in_parts() {
    let mut bench = Bench::new();
    bench.load("m", 257, 5);
    let is_long = |request: &RangeRequest| super::is_long(&bench.state.index, request);
    assert!(is_long(&all()));
    assert!(is_long(&RangeRequest { limit: 257, ..all() }) && is_long(&RangeRequest { limit: -1, ..all() }));
    for short in [
        RangeRequest { limit: 256, ..all() },
        RangeRequest { count_only: true, ..all() },
        RangeRequest { sort_order: 2, ..all() },
        RangeRequest { min_mod_revision: 1, ..all() },
        RangeRequest { range_end: "m00256".into(), ..all() },
        RangeRequest { range_end: Bytes::new(), ..all() },
        RangeRequest { revision: 1 << 40, ..all() },
    ] {
        assert!(!is_long(&short), "{short:?}");
    }
}
