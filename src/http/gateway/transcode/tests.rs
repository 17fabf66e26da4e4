//! Both directions against each other and against the generated messages; texts wanted are protojson's.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::{
    limits,
    proto::{
        etcdserverpb::{
            self, AlarmMember, AlarmRequest, AlarmResponse, Compare, DowngradeInfo, HashKvResponse,
            LeaseTimeToLiveResponse, Member, MemberListResponse, PutRequest, RangeRequest, RangeResponse, RequestOp,
            ResponseHeader, ResponseOp, StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
            WatchResponse, compare::TargetUnion, request_op, response_op, watch_request,
        },
        mvccpb::{Event, KeyValue},
    },
};

fn named(name: &str) -> &'static schema::Message {
    Schema::message(name).unwrap_or_else(|| panic!("{name} does not travel through the gateway"))
}

fn read_as(name: &str, json: &str) -> Result<Vec<u8>, String> {
    match read(named(name), json.as_bytes(), 1 << 20)? {
        Read::Message(bytes) => Ok(bytes),
        Read::TooLarge(len) => panic!("{len} bytes of {json}"),
    }
}

fn written(name: &str, bytes: &[u8], piece: usize, budget: usize, escape: Escape) -> String {
    let mut writer = Writer::new(named(name), bytes.len(), escape);
    let (mut input, mut out) = (Input::default(), Vec::new());
    let mut pieces = bytes.chunks(piece);
    loop {
        let until = out.len().saturating_add(budget);
        match writer.write(&mut input, &mut out, until) {
            Step::Done => break,
            Step::Full => assert!(out.len() >= until),
            Step::Hungry => {
                input.push(Bytes::copy_from_slice(pieces.next().expect("it asks for no more than there is")));
            }
            Step::Broken => panic!("broken after {}", String::from_utf8_lossy(&out)),
        }
    }
    assert!(input.is_empty() && pieces.next().is_none(), "all of it was taken");
    String::from_utf8(out).unwrap()
}

fn json_of(name: &str, message: &impl prost::Message) -> String {
    written(name, &message.encode_to_vec(), usize::MAX, usize::MAX, Escape::Json)
}

/// To JSON and back, however it is cut.
fn round_trip<M: prost::Message + Default + PartialEq + std::fmt::Debug>(
    name: &str,
    message: &M,
    piece: usize,
    budget: usize,
) {
    let bytes = message.encode_to_vec();
    for escape in [Escape::Json, Escape::Html] {
        let json = written(name, &bytes, piece, budget, escape);
        serde_json::from_str::<serde_json::Value>(&json).unwrap_or_else(|cause| panic!("{cause}: {json}"));
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(json.as_bytes()), Scan::Value(json.len()));
        let back = read_as(name, &json).unwrap();
        assert_eq!(&M::decode(&back[..]).unwrap(), message, "{json}");
        assert_eq!(back.len(), bytes.len());
    }
}

#[test]
fn answers_are_spelled_as_protojson_spells_them() {
    let header = Some(ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: -3, raft_term: 0 });
    let kv =
        KeyValue { key: "k".into(), create_revision: 2, mod_revision: 3, version: 1, value: "<v>".into(), lease: 0 };
    let range = RangeResponse { header, kvs: vec![kv, KeyValue::default()], more: true, count: 2 };
    assert_eq!(
        json_of("etcdserverpb.RangeResponse", &range),
        r#"{"header":{"cluster_id":"18446744073709551615","member_id":"2","revision":"-3"},"kvs":[{"key":"aw==","create_revision":"2","mod_revision":"3","version":"1","value":"PHY+"},{}],"more":true,"count":"2"}"#
    );
    assert_eq!(json_of("etcdserverpb.RangeResponse", &RangeResponse::default()), "{}");
    let status = StatusResponse {
        header: Some(ResponseHeader::default()),
        version: "3.7.3 \"<&>\u{2028}\u{7f}\u{1}".into(),
        errors: vec!["a".into(), String::new()],
        downgrade_info: Some(DowngradeInfo::default()),
        ..Default::default()
    };
    assert_eq!(
        json_of("etcdserverpb.StatusResponse", &status),
        "{\"header\":{},\"version\":\"3.7.3 \\\"<&>\u{2028}\u{7f}\\u0001\",\"errors\":[\"a\",\"\"],\"downgradeInfo\":{}}"
    );
    assert_eq!(
        written("etcdserverpb.StatusResponse", &status.encode_to_vec(), 1, 1, Escape::Html),
        "{\"header\":{},\"version\":\"3.7.3 \\\"\\u003c\\u0026\\u003e\\u2028\u{7f}\\u0001\",\"errors\":[\"a\",\"\"],\
         \"downgradeInfo\":{}}"
    );
    let alarms = [(1, 7), (5, 0)].map(|(alarm, member_id)| AlarmMember { member_id, alarm }).to_vec();
    assert_eq!(
        json_of("etcdserverpb.AlarmResponse", &AlarmResponse { header: None, alarms }),
        r#"{"alarms":[{"memberID":"7","alarm":"NOSPACE"},{"alarm":5}]}"#
    );
    let hash = HashKvResponse { header: None, hash: u32::MAX, compact_revision: 1, hash_revision: 0 };
    assert_eq!(json_of("etcdserverpb.HashKVResponse", &hash), r#"{"hash":4294967295,"compact_revision":"1"}"#);
    // A oneof is there though it be zero.
    let compare = Compare { target_union: Some(TargetUnion::Version(0)), ..Default::default() };
    assert_eq!(json_of("etcdserverpb.Compare", &compare), r#"{"version":"0"}"#);
    let compare = Compare { target_union: Some(TargetUnion::Value(Bytes::new())), result: 3, ..Default::default() };
    assert_eq!(json_of("etcdserverpb.Compare", &compare), r#"{"result":"NOT_EQUAL","value":""}"#);
    // Several numbers in one field.
    let create = WatchCreateRequest { filters: vec![0, 1, 9], ..Default::default() };
    assert_eq!(json_of("etcdserverpb.WatchCreateRequest", &create), r#"{"filters":["NOPUT","NODELETE",9]}"#);
}

#[test]
fn fields_that_are_not_known_are_passed_over() {
    // Number 15: a varint, eight bytes, a text, four bytes.
    let bytes = [&[0x78, 5][..], &[0x79, 1, 2, 3, 4, 5, 6, 7, 8], &[0x7a, 2, b'a', b'b'], &[0x7d, 1, 2, 3, 4]].concat();
    for piece in [1, 3, 100] {
        assert_eq!(written("etcdserverpb.RangeResponse", &bytes, piece, 1, Escape::Json), "{}");
    }
}

#[test]
fn what_is_no_message_is_broken() {
    for bytes in [
        &[0x0a, 5, 1][..],
        &[0x0a, 1, 0xff],
        &[0x0a, 1],
        &[0xff; 11],
        &[0x18],
        &[0x1b, 0],
        // A text where a number belongs, and the other way round.
        &[0x1a, 1, 0xff],
        &[0x10, 1],
    ] {
        let mut writer = Writer::new(named("etcdserverpb.RangeResponse"), bytes.len(), Escape::Json);
        let (mut input, mut out) = (Input::default(), Vec::new());
        input.push(Bytes::copy_from_slice(bytes));
        assert_eq!(writer.write(&mut input, &mut out, usize::MAX), Step::Broken, "{bytes:?}");
    }
}

#[test]
fn requests_are_read_in_every_spelling() {
    let range = |json: &str| RangeRequest::decode(&read_as("etcdserverpb.RangeRequest", json).unwrap()[..]).unwrap();
    let wanted = RangeRequest {
        key: "foo".into(),
        range_end: "\0".into(),
        limit: 2,
        sort_order: 1,
        sort_target: 4,
        serializable: true,
        ..Default::default()
    };
    for json in [
        r#"{"key":"Zm9v","range_end":"AA==","limit":"2","sort_order":"ASCEND","sort_target":"VALUE","serializable":true}"#,
        r#" {"serializable" : true, "sortTarget":4,"sortOrder":1.0 ,"limit":2e0,"rangeEnd":"AA","key":"Zm9v"}"#,
        r#"{"\u006bey":"Zm\u0039v","range_end":"AA","limit":20e-1,"sort_order":1,"sort_target":4,"serializable":true,"x":[{"y":"}"}]}"#,
        r#"{"key":"Zm9v","range_end":"AA","limit":"2 ignored","sort_order":1,"sort_target":"VALUE","serializable":true,"keys_only":null}"#,
    ] {
        assert_eq!(range(json), wanted, "{json}");
    }
    // What is zero is not written, so that a request is as large as its client's library would make it.
    assert_eq!(read_as("etcdserverpb.PutRequest", r#"{"lease":0,"key":"","prev_kv":false}"#).unwrap(), [0u8; 0]);
    assert_eq!(range(r#"{"sort_order":"NO_SUCH","KEY":"eA=="}"#), RangeRequest::default());
    assert_eq!(range(r#"{"sort_order":-77}"#).sort_order, -77);
    assert_eq!(range("{}"), RangeRequest::default());
    let compare = Compare::decode(&read_as("etcdserverpb.Compare", r#"{"version":"0"}"#).unwrap()[..]).unwrap();
    assert_eq!(compare.target_union, Some(TargetUnion::Version(0)));
    let alarm = r#"{"action":"ACTIVATE","memberID":"18446744073709551615","alarm":"CORRUPT"}"#;
    let alarm = AlarmRequest::decode(&read_as("etcdserverpb.AlarmRequest", alarm).unwrap()[..]).unwrap();
    assert_eq!(alarm, AlarmRequest { action: 1, member_id: u64::MAX, alarm: 2 });
    let create = r#"{"create_request":{"key":"AA==","filters":["NOPUT","UNKNOWN",1]}}"#;
    let create = WatchRequest::decode(&read_as("etcdserverpb.WatchRequest", create).unwrap()[..]).unwrap();
    let Some(watch_request::RequestUnion::CreateRequest(create)) = create.request_union else { panic!("{create:?}") };
    assert_eq!(create.filters, [0, 1]);
}

/// The texts are those of protobuf-go 1.36 as etcd 3.7.3's release has it, with a plain space after "proto:".
#[test]
fn faults_are_named_as_protojson_names_them() {
    let put = "etcdserverpb.PutRequest";
    let txn = "etcdserverpb.TxnRequest";
    for (name, json, fault) in [
        (put, "[]", "syntax error (line 1:1): unexpected token ["),
        (put, "null", "syntax error (line 1:1): unexpected token null"),
        (put, "\"x\"", "syntax error (line 1:1): unexpected token \"x\""),
        (put, r#"{"key":5}"#, "(line 1:8): invalid value for bytes field key: 5"),
        (put, r#"{"key":"not base64!"}"#, "(line 1:8): invalid value for bytes field key: \"not base64!\""),
        (put, r#"{"lease":"x"}"#, "(line 1:10): invalid value for int64 field lease: \"x\""),
        (put, r#"{"lease":" 5"}"#, "(line 1:10): invalid value for int64 field lease: \" 5\""),
        (put, r#"{"lease":1.5}"#, "(line 1:10): invalid value for int64 field lease: 1.5"),
        (
            put,
            r#"{"lease":99999999999999999999}"#,
            "(line 1:10): invalid value for int64 field lease: 99999999999999999999",
        ),
        (put, r#"{"lease":{}}"#, "(line 1:10): invalid value for int64 field lease: {"),
        (put, r#"{"prev_kv":"true"}"#, "(line 1:12): invalid value for bool field prevKv: \"true\""),
        (put, "{\n \"key\":\"\",\n \"key\":\"\"}", "(line 3:2): duplicate field \"key\""),
        (put, r#"{"prev_kv":null,"prevKv":true}"#, "(line 1:17): duplicate field \"prevKv\""),
        (put, r#"{"é":1,"key":true}"#, "(line 1:14): invalid value for bytes field key: true"),
        (txn, r#"{"compare":{}}"#, "syntax error (line 1:12): unexpected token {"),
        (txn, r#"{"compare":[null]}"#, "syntax error (line 1:13): unexpected token null"),
        (txn, r#"{"compare":[{"result":true}]}"#, "(line 1:23): invalid value for enum field result: true"),
        (
            txn,
            r#"{"success":[{"request_put":{},"request_range":{}}]}"#,
            "(line 1:31): error parsing \"request_range\", oneof etcdserverpb.RequestOp.request is already set",
        ),
        (
            txn,
            r#"{"compare":[{"version":1,"value":"eA=="}]}"#,
            "(line 1:26): error parsing \"value\", oneof etcdserverpb.Compare.target_union is already set",
        ),
        (
            "etcdserverpb.HashKVResponse",
            r#"{"hash":4294967296}"#,
            "(line 1:9): invalid value for uint32 field hash: 4294967296",
        ),
        ("etcdserverpb.MemberRemoveRequest", r#"{"ID":-1}"#, "(line 1:7): invalid value for uint64 field ID: -1"),
        ("etcdserverpb.AuthUserAddRequest", r#"{"name":5}"#, "(line 1:9): invalid value for string field name: 5"),
    ] {
        assert_eq!(read_as(name, json), Err(format!("proto: {fault}")), "{json}");
    }
}

#[test]
fn messages_within_messages_are_bounded() {
    let nested = |depth: usize| {
        let mut json = String::from("{}");
        for _ in 0..depth {
            json = format!("{{\"success\":[{{\"request_txn\":{json}}}]}}");
        }
        read_as("etcdserverpb.TxnRequest", &json)
    };
    let deepest = nested((limits::GATEWAY_MESSAGE_DEPTH_MAX - 1) / 2).unwrap();
    TxnRequest::decode(&deepest[..]).expect("what is let through can be decoded");
    assert_eq!(nested(limits::GATEWAY_MESSAGE_DEPTH_MAX / 2), Err("proto: exceeded max recursion depth".to_owned()));
    // Of what is passed over the scanner bounds the depth, and nothing here goes down with it.
    let skipped = format!("{{\"x\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000));
    assert_eq!(read_as("etcdserverpb.TxnRequest", &skipped).unwrap(), [0u8; 0]);
}

#[test]
fn of_a_message_that_is_too_large_the_size_is_told() {
    let range = named("etcdserverpb.RangeRequest");
    let json = format!("{{\"key\":\"{}\"}}", "QUFB".repeat(1000));
    assert_eq!(
        read(range, json.as_bytes(), 3003),
        Ok(Read::Message([&[0x0a, 0xb8, 0x17][..], &[b'A'; 3000]].concat()))
    );
    assert_eq!(read(range, json.as_bytes(), 3002), Ok(Read::TooLarge(3003)));
    let ops = format!("{{\"success\":[{}]}}", ["{\"request_range\":{\"key\":\"QQ==\"}}"; 1000].join(","));
    let txn = named("etcdserverpb.TxnRequest");
    let Ok(Read::Message(bytes)) = read(txn, ops.as_bytes(), 1 << 20) else { panic!("it is not so large") };
    for max in [0, 1, 100, bytes.len() - 1] {
        assert_eq!(read(txn, ops.as_bytes(), max), Ok(Read::TooLarge(bytes.len())));
    }
    assert_eq!(read(txn, ops.as_bytes(), bytes.len()), Ok(Read::Message(bytes)));
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn header() -> impl Strategy<Value = Option<ResponseHeader>> {
    proptest::option::of((any::<u64>(), any::<u64>(), any::<i64>(), 0u64..3).prop_map(
        |(cluster_id, member_id, revision, raft_term)| ResponseHeader { cluster_id, member_id, revision, raft_term },
    ))
}

fn kv() -> impl Strategy<Value = KeyValue> {
    (bytes(), 0i64..3, any::<i64>(), 0i64..9, bytes(), any::<i64>()).prop_map(
        |(key, create_revision, mod_revision, version, value, lease)| KeyValue {
            key,
            create_revision,
            mod_revision,
            version,
            value,
            lease,
        },
    )
}

fn range() -> impl Strategy<Value = RangeResponse> {
    (header(), proptest::collection::vec(kv(), 0..5), any::<bool>(), 0i64..3)
        .prop_map(|(header, kvs, more, count)| RangeResponse { header, kvs, more, count })
}

fn watch() -> impl Strategy<Value = WatchResponse> {
    let event = (0i32..3, proptest::option::of(kv()), proptest::option::of(kv()))
        .prop_map(|(r#type, kv, prev_kv)| Event { r#type, kv, prev_kv });
    (header(), any::<i64>(), any::<bool>(), any::<String>(), proptest::collection::vec(event, 0..4)).prop_map(
        |(header, watch_id, created, cancel_reason, events)| WatchResponse {
            header,
            watch_id,
            created,
            cancel_reason,
            events,
            ..Default::default()
        },
    )
}

fn txn_response() -> impl Strategy<Value = TxnResponse> {
    let leaf = (header(), any::<bool>()).prop_map(|(header, succeeded)| TxnResponse {
        header,
        succeeded,
        responses: Vec::new(),
    });
    leaf.prop_recursive(4, 20, 4, |inner| {
        let op = prop_oneof![
            range().prop_map(response_op::Response::ResponseRange),
            inner.prop_map(response_op::Response::ResponseTxn),
        ];
        let op = proptest::option::of(op).prop_map(|response| ResponseOp { response });
        (any::<bool>(), proptest::collection::vec(op, 0..4)).prop_map(|(succeeded, responses)| TxnResponse {
            header: None,
            succeeded,
            responses,
        })
    })
}

fn txn_request() -> impl Strategy<Value = TxnRequest> {
    let target = prop_oneof![any::<i64>().prop_map(TargetUnion::Lease), bytes().prop_map(TargetUnion::Value)];
    let compare = (0i32..6, any::<i32>(), bytes(), proptest::option::of(target), bytes()).prop_map(
        |(result, target, key, target_union, range_end)| Compare { result, target, key, range_end, target_union },
    );
    let put = (bytes(), bytes(), any::<bool>()).prop_map(|(key, value, prev_kv)| PutRequest {
        key,
        value,
        prev_kv,
        ..Default::default()
    });
    let op = proptest::option::of(put.prop_map(request_op::Request::RequestPut));
    let op = op.prop_map(|request| RequestOp { request });
    (proptest::collection::vec(compare, 0..4), proptest::collection::vec(op, 0..4))
        .prop_map(|(compare, success)| TxnRequest { compare, success, failure: Vec::new() })
}

fn members() -> impl Strategy<Value = MemberListResponse> {
    let urls = || proptest::collection::vec(any::<String>(), 0..3);
    let member = (any::<u64>(), any::<String>(), urls(), urls(), any::<bool>()).prop_map(
        |(id, name, peer_ur_ls, client_ur_ls, is_learner)| Member { id, name, peer_ur_ls, client_ur_ls, is_learner },
    );
    (header(), proptest::collection::vec(member, 0..4))
        .prop_map(|(header, members)| MemberListResponse { header, members })
}

proptest! {
    #[test]
    fn messages_are_the_same_after_both_ways(
        range in range(),
        watch in watch(),
        txn in txn_response(),
        request in txn_request(),
        members in members(),
        keys in proptest::collection::vec(bytes(), 0..4),
        piece in 1usize..50,
        budget in 1usize..50,
    ) {
        round_trip("etcdserverpb.RangeResponse", &range, piece, budget);
        round_trip("etcdserverpb.WatchResponse", &watch, piece, budget);
        round_trip("etcdserverpb.TxnResponse", &txn, piece, budget);
        round_trip("etcdserverpb.TxnRequest", &request, piece, budget);
        round_trip("etcdserverpb.MemberListResponse", &members, piece, budget);
        let ttl = LeaseTimeToLiveResponse { id: 1, ttl: -1, granted_ttl: 2, keys, header: None };
        round_trip("etcdserverpb.LeaseTimeToLiveResponse", &ttl, piece, budget);
    }

    #[test]
    fn no_bytes_make_writing_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), piece in 1usize..9) {
        let mut writer = Writer::new(named("etcdserverpb.TxnResponse"), bytes.len(), Escape::Html);
        let (mut input, mut out) = (Input::default(), Vec::new());
        let mut pieces = bytes.chunks(piece);
        loop {
            match writer.write(&mut input, &mut out, usize::MAX) {
                Step::Hungry => match pieces.next() {
                    Some(piece) => input.push(Bytes::copy_from_slice(piece)),
                    None => break,
                },
                Step::Done => {
                    prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
                    break;
                }
                Step::Full | Step::Broken => break,
            }
        }
    }

    #[test]
    fn no_json_makes_reading_panic(
        text in "[\\[\\]{}:,\" \\\\ue0-9a.nltrs]{0,60}",
        begin in prop_oneof![Just("{\"compare\":[{"), Just("{\"success\":[{\"request_put\":{\"key\":"), Just("")],
    ) {
        let json = format!("{begin}{text}");
        if let Ok(Read::Message(bytes)) = read(named("etcdserverpb.TxnRequest"), json.as_bytes(), 1 << 20) {
            prop_assert!(etcdserverpb::TxnRequest::decode(&bytes[..]).is_ok());
        }
    }
}
