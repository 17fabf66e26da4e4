use super::*;
use crate::{
    api::testing::{Bench, CLUSTER_ID, MEMBER_ID, TERM},
    error,
    proto::{etcdserverpb::*, mvccpb::KeyValue},
};

fn put(bench: &mut Bench, key: &str, value: &str) -> PutResponse {
    let request = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    bench.ask("/etcdserverpb.KV/Put", &request).unwrap()
}

fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), range_end: end.to_owned().into(), ..Default::default() }
}

fn get(bench: &mut Bench, request: &RangeRequest) -> Result<RangeResponse, Status> {
    bench.ask("/etcdserverpb.KV/Range", request)
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: CLUSTER_ID, member_id: MEMBER_ID, revision, raft_term: TERM })
}

fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision: create,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

#[test]
fn a_key_is_put_read_changed_and_deleted() {
    let mut bench = Bench::new();
    assert_eq!(put(&mut bench, "k", "one"), PutResponse { header: header(2), prev_kv: None });
    let change = PutRequest { key: "k".into(), value: "two".into(), prev_kv: true, ..Default::default() };
    let changed: PutResponse = bench.ask("/etcdserverpb.KV/Put", &change).unwrap();
    assert_eq!(changed, PutResponse { header: header(3), prev_kv: Some(kv("k", "one", 2, 2, 1)) });

    let wanted = |value, modified, version| RangeResponse {
        header: header(3),
        kvs: vec![kv("k", value, 2, modified, version)],
        more: false,
        count: 1,
    };
    assert_eq!(get(&mut bench, &range("k", "")), Ok(wanted("two", 3, 2)));
    assert_eq!(get(&mut bench, &RangeRequest { revision: 2, ..range("k", "") }), Ok(wanted("one", 2, 1)));

    let delete = DeleteRangeRequest { key: "a".into(), range_end: "z".into(), prev_kv: true };
    let deleted: DeleteRangeResponse = bench.ask("/etcdserverpb.KV/DeleteRange", &delete).unwrap();
    let wanted = DeleteRangeResponse { header: header(4), deleted: 1, prev_kvs: vec![kv("k", "two", 2, 3, 2)] };
    assert_eq!(deleted, wanted);
    let empty = RangeResponse { header: header(4), ..Default::default() };
    assert_eq!(get(&mut bench, &range("k", "")), Ok(empty));
}

#[test]
fn only_linearizable_reads_wait_for_the_core() {
    let mut bench = Bench::new();
    put(&mut bench, "k", "v");
    get(&mut bench, &range("k", "")).unwrap();
    assert_eq!(bench.reads, 1);
    let request = RangeRequest { serializable: true, ..range("k", "") };
    let ready = super::range(bench.services.clone(), Caller::Member, prost::Message::encode_to_vec(&request).into());
    assert!(matches!(ready, Unary::Ready(Ok(_))), "a serializable read is answered at once");
    assert_eq!((bench.reads, bench.proposals.len()), (1, 1));
}

#[test]
fn listings_are_cut_counted_sorted_and_filtered() {
    let mut bench = Bench::new();
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1"), ("d", "0"), ("b", "9")] {
        put(&mut bench, key, value);
    }
    let keys = |response: RangeResponse| -> (String, bool, i64) {
        let keys = response.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
        (keys, response.more, response.count)
    };
    let all = || range("a", "\0");
    let mut listed = |request: RangeRequest| keys(get(&mut bench, &request).unwrap());
    assert_eq!(listed(all()), ("abcd".into(), false, 4));
    assert_eq!(listed(RangeRequest { limit: 3, ..all() }), ("abc".into(), true, 4));
    assert_eq!(listed(RangeRequest { limit: 4, ..all() }), ("abcd".into(), false, 4));
    assert_eq!(listed(RangeRequest { limit: -1, ..all() }), ("abcd".into(), false, 4));
    assert_eq!(listed(RangeRequest { count_only: true, limit: 1, ..all() }), (String::new(), false, 4));
    assert_eq!(listed(range("b", "d")), ("bc".into(), false, 2));
    assert_eq!(listed(range("d", "b")), (String::new(), false, 0));
    assert_eq!(listed(RangeRequest { sort_order: 2, ..all() }), ("dcba".into(), false, 4));
    assert_eq!(listed(RangeRequest { sort_order: 2, limit: 2, ..all() }), ("dc".into(), true, 4));
    assert_eq!(listed(RangeRequest { sort_order: 1, sort_target: 4, ..all() }), ("dcab".into(), false, 4));
    assert_eq!(
        listed(RangeRequest { sort_target: 3, limit: 2, ..all() }),
        ("ac".into(), true, 4),
        "the limit cuts one key beyond it, then after the sort"
    );
    assert_eq!(listed(RangeRequest { min_mod_revision: 4, ..all() }), ("bcd".into(), false, 4));
    assert_eq!(listed(RangeRequest { max_create_revision: 3, limit: 1, ..all() }), ("a".into(), true, 4));
    let keys_only = get(&mut bench, &RangeRequest { keys_only: true, ..range("b", "") }).unwrap();
    assert_eq!(keys_only.kvs, [kv("b", "", 3, 6, 2)]);
}

#[test]
fn revisions_out_of_reach_are_refused() {
    let mut bench = Bench::new();
    for n in 0..5 {
        put(&mut bench, "k", &n.to_string());
    }
    let at = |revision| RangeRequest { revision, ..range("k", "") };
    assert_eq!(get(&mut bench, &at(7)), Err(error::FUTURE_REV));
    let compact = |revision, physical| CompactionRequest { revision, physical };
    let compacted: CompactionResponse = bench.ask("/etcdserverpb.KV/Compact", &compact(4, false)).unwrap();
    assert_eq!(compacted.header, header(6));
    assert!(bench.controls.is_empty());
    assert_eq!(get(&mut bench, &at(3)), Err(error::COMPACTED));
    assert_eq!(get(&mut bench, &at(4)).unwrap().kvs, [kv("k", "2", 2, 4, 3)]);
    bench.ask::<CompactionResponse>("/etcdserverpb.KV/Compact", &compact(5, true)).unwrap();
    assert_eq!(bench.controls.len(), 1, "a physical compaction waits for the space");
    assert_eq!(bench.call("/etcdserverpb.KV/Compact", &compact(5, false)), Err(error::COMPACTED));
    assert_eq!(bench.call("/etcdserverpb.KV/Compact", &compact(9, false)), Err(error::FUTURE_REV));
}

#[test]
fn checks_come_in_etcds_order() {
    let mut bench = Bench::new();
    let bad = |request| PutRequest { key: "k".into(), ..request };
    let value =
        bad(PutRequest { value: "v".into(), ignore_value: true, ignore_lease: true, lease: 1, ..Default::default() });
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &value), Err(error::VALUE_PROVIDED));
    let lease = bad(PutRequest { ignore_lease: true, lease: 1, ..Default::default() });
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &lease), Err(error::LEASE_PROVIDED));
    let absent = bad(PutRequest { ignore_value: true, ..Default::default() });
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &absent), Err(error::KEY_NOT_FOUND));
    let unknown = bad(PutRequest { lease: 9, ..Default::default() });
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &unknown), Err(error::LEASE_NOT_FOUND));
    assert_eq!(get(&mut bench, &range("", "")), Err(error::EMPTY_KEY));
    assert_eq!(get(&mut bench, &RangeRequest { sort_order: 3, ..range("k", "") }), Err(error::INVALID_SORT_OPTION));
    assert_eq!(bench.call("/etcdserverpb.KV/DeleteRange", &DeleteRangeRequest::default()), Err(error::EMPTY_KEY));
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn value_is(key: &str, value: &str) -> Compare {
    Compare {
        key: key.to_owned().into(),
        target: compare::CompareTarget::Value as i32,
        target_union: Some(compare::TargetUnion::Value(value.to_owned().into())),
        ..Default::default()
    }
}

#[test]
fn a_transaction_answers_each_operation() {
    let mut bench = Bench::new();
    put(&mut bench, "k", "v");
    let put_op = PutRequest { key: "k".into(), value: "w".into(), prev_kv: true, ..Default::default() };
    let nested = TxnRequest {
        failure: vec![op(Request::RequestRange(range("x", "")))],
        compare: vec![value_is("x", "")],
        success: vec![],
    };
    let delete = DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let txn = TxnRequest {
        compare: vec![value_is("k", "v")],
        success: vec![
            op(Request::RequestRange(range("k", ""))),
            op(Request::RequestTxn(nested)),
            op(Request::RequestDeleteRange(DeleteRangeRequest { key: "q".into(), ..delete.clone() })),
            op(Request::RequestPut(put_op)),
            op(Request::RequestRange(range("k", ""))),
        ],
        failure: vec![],
    };
    let answered: TxnResponse = bench.ask("/etcdserverpb.KV/Txn", &txn).unwrap();
    use response_op::Response;
    let inner = |revision| Some(ResponseHeader { revision, ..Default::default() });
    let found = |revision, kvs: Vec<KeyValue>| {
        let count = kvs.len() as i64;
        Response::ResponseRange(RangeResponse { header: inner(revision), kvs, more: false, count })
    };
    let response = |response| ResponseOp { response: Some(response) };
    let wanted = TxnResponse {
        header: header(3),
        succeeded: true,
        responses: vec![
            response(found(2, vec![kv("k", "v", 2, 2, 1)])),
            response(Response::ResponseTxn(TxnResponse {
                header: inner(0),
                succeeded: false,
                responses: vec![response(found(2, vec![]))],
            })),
            response(Response::ResponseDeleteRange(DeleteRangeResponse {
                header: inner(2),
                deleted: 0,
                prev_kvs: vec![],
            })),
            response(Response::ResponsePut(PutResponse { header: inner(3), prev_kv: Some(kv("k", "v", 2, 2, 1)) })),
            response(found(3, vec![kv("k", "w", 2, 3, 2)])),
        ],
    };
    assert_eq!(answered, wanted);
}

#[test]
fn a_transaction_of_reads_is_not_logged() {
    let mut bench = Bench::new();
    put(&mut bench, "k", "v");
    let read = |serializable| op(Request::RequestRange(RangeRequest { serializable, ..range("k", "") }));
    let txn = |serializable| TxnRequest {
        compare: vec![value_is("k", "v")],
        success: vec![read(serializable)],
        failure: vec![read(true)],
    };
    for (serializable, reads) in [(true, 0), (false, 1)] {
        let answered: TxnResponse = bench.ask("/etcdserverpb.KV/Txn", &txn(serializable)).unwrap();
        assert!(answered.succeeded);
        assert_eq!(answered.header, header(2));
        assert_eq!(answered.responses.len(), 1);
        assert_eq!((bench.reads, bench.proposals.len()), (reads, 1));
    }
    let nested = op(Request::RequestTxn(txn(true)));
    bench.call("/etcdserverpb.KV/Txn", &TxnRequest { success: vec![nested], ..Default::default() }).unwrap();
    assert_eq!(bench.proposals.len(), 2, "a nested transaction goes through the log");
}

#[test]
fn long_listings_are_encoded_in_turns() {
    let mut bench = Bench::new();
    bench.load("m", 1500, 20);
    let all = RangeRequest { serializable: true, ..range("m", "n") };
    for (limit, sent) in [(0, 1500), (700, 700), (257, 257), (256, 256)] {
        let request = RangeRequest { limit, ..all.clone() };
        let response: RangeResponse =
            prost::Message::decode(bench.call_alone("/etcdserverpb.KV/Range", &request).unwrap()).unwrap();
        assert_eq!((response.count, response.more, response.kvs.len()), (1500, sent < 1500, sent));
        for (at, kv) in response.kvs.iter().enumerate() {
            assert_eq!((&kv.key[..], kv.value.len()), (format!("m{at:05}").as_bytes(), 20));
        }
    }
    // Sorted, filtered and in transactions, on a thread of its own.
    let descending = RangeRequest { sort_order: 2, limit: 3, ..all.clone() };
    let response: RangeResponse =
        prost::Message::decode(bench.call_alone("/etcdserverpb.KV/Range", &descending).unwrap()).unwrap();
    let keys: Vec<_> = response.kvs.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!(keys, [b"m01499", b"m01498", b"m01497"]);
    let txn = TxnRequest { success: vec![op(Request::RequestRange(all))], ..Default::default() };
    let response: TxnResponse =
        prost::Message::decode(bench.call_alone("/etcdserverpb.KV/Txn", &txn).unwrap()).unwrap();
    let Some(response_op::Response::ResponseRange(listed)) = &response.responses[0].response else { panic!() };
    assert_eq!((listed.kvs.len(), listed.count), (1500, 1500));
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_and_not_zeros() {
    let mut bench = Bench::new();
    put(&mut bench, "empty", "");
    put(&mut bench, "k", "v");
    bench.forget_segments();
    let request = RangeRequest { serializable: true, ..range("k", "") };
    let refused = bench.call_alone("/etcdserverpb.KV/Range", &request).unwrap_err();
    assert_eq!(refused.code, crate::error::Code::Internal);
    // What needs no value is served.
    let request = RangeRequest { keys_only: true, ..request };
    bench.call_alone("/etcdserverpb.KV/Range", &request).unwrap();
    let request = RangeRequest { serializable: true, ..range("empty", "") };
    bench.call_alone("/etcdserverpb.KV/Range", &request).unwrap();
    let compare = TxnRequest {
        compare: vec![value_is("k", "w")],
        failure: vec![op(Request::RequestRange(RangeRequest { serializable: true, ..range("empty", "") }))],
        ..Default::default()
    };
    assert_eq!(bench.call_alone("/etcdserverpb.KV/Txn", &compare).unwrap_err().code, crate::error::Code::Internal);
}

#[test]
fn values_that_are_not_in_memory_are_read() {
    let mut bench = Bench::new();
    for (key, value) in [("a", "3"), ("b", ""), ("c", "1"), ("d", "22")] {
        put(&mut bench, key, value);
    }
    let descending = RangeRequest { sort_order: 2, sort_target: 4, ..range("a", "z") };
    let txn = TxnRequest {
        compare: vec![value_is("c", "1")],
        success: vec![op(Request::RequestRange(RangeRequest { serializable: true, ..range("c", "") }))],
        ..Default::default()
    };
    let requests = [range("a", ""), range("a", "z"), RangeRequest { limit: 2, ..range("b", "\0") }, descending]
        .map(|request| RangeRequest { serializable: true, ..request });
    let answers = |bench: &mut Bench| -> Vec<Bytes> {
        let mut answers: Vec<Bytes> =
            requests.iter().map(|request| bench.call_alone("/etcdserverpb.KV/Range", request).unwrap()).collect();
        answers.push(bench.call_alone("/etcdserverpb.KV/Txn", &txn).unwrap());
        answers
    };
    let warm = answers(&mut bench);
    bench.cool_segments();
    assert_eq!(answers(&mut bench), warm);
}
