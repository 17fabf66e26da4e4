use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    proto::{
        etcdserverpb::{
            DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
            response_op::Response,
        },
        mvccpb::KeyValue,
    },
    store::types::Revision,
};

const LOG: usize = 4096;

fn log() -> Bytes {
    (0..LOG).map(|at| (at * 7 % 251) as u8).collect::<Vec<u8>>().into()
}

fn value(place: Place) -> Bytes {
    log().slice(place.offset as usize..(place.offset + place.len) as usize)
}

fn kv_ref() -> impl Strategy<Value = KeyRef> {
    let place = (0u32..2048, 0u32..300, 1u32..3).prop_map(|(offset, len, segment)| match len {
        0 => Place::EMPTY,
        _ => Place { segment, offset, len },
    });
    let numbers = (1i64..i64::MAX, 1i64..i64::MAX, 1i64..300, any::<i64>());
    (prop::collection::vec(any::<u8>(), 1..200), numbers, place).prop_map(
        |(key, (main, create, version, lease), place)| KeyRef {
            key: key.into(),
            meta: KeyMeta { revision: Revision::new(main, 3), create, version, lease, place },
        },
    )
}

fn kvs() -> impl Strategy<Value = Vec<KeyRef>> {
    prop::collection::vec(kv_ref(), 0..5)
}

fn range_answer() -> impl Strategy<Value = RangeAnswer> {
    (0i64..i64::MAX, kvs(), any::<bool>(), 0i64..1000, any::<bool>())
        .prop_map(|(revision, kvs, more, count, with_values)| RangeAnswer { revision, kvs, more, count, with_values })
}

fn op_answer() -> impl Strategy<Value = OpAnswer> {
    let leaf = prop_oneof![
        range_answer().prop_map(OpAnswer::Range),
        (0i64..1000, prop::option::of(kv_ref())).prop_map(|(revision, prev)| OpAnswer::Put { revision, prev }),
        (0i64..1000, 0i64..1000, kvs()).prop_map(|(revision, deleted, prevs)| OpAnswer::DeleteRange {
            revision,
            deleted,
            prevs
        }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        (any::<bool>(), prop::collection::vec(inner, 0..4))
            .prop_map(|(succeeded, responses)| OpAnswer::Txn(TxnAnswer { revision: 0, succeeded, responses }))
    })
}

fn answer_strategy() -> impl Strategy<Value = Answer> {
    let revision = 0i64..i64::MAX;
    prop_oneof![
        (revision.clone(), prop::option::of(kv_ref())).prop_map(|(revision, prev)| Answer::Put { revision, prev }),
        (revision.clone(), 0i64..1000, kvs()).prop_map(|(revision, deleted, prevs)| Answer::DeleteRange {
            revision,
            deleted,
            prevs
        }),
        range_answer().prop_map(Answer::Range),
        (revision, any::<bool>(), prop::collection::vec(op_answer(), 0..5))
            .prop_map(|(revision, succeeded, responses)| Answer::Txn(TxnAnswer { revision, succeeded, responses })),
    ]
}

// ---- the same by prost ----

type Header = Box<dyn Fn(i64) -> Option<ResponseHeader>>;

fn plain_kv(kv: &KeyRef, with_value: bool) -> KeyValue {
    KeyValue {
        key: kv.key.clone(),
        create_revision: kv.meta.create,
        mod_revision: kv.meta.revision.main,
        version: kv.meta.version,
        value: if with_value { value(kv.meta.place) } else { Bytes::new() },
        lease: kv.meta.lease,
    }
}

fn plain_kvs(kvs: &[KeyRef], with_values: bool) -> Vec<KeyValue> {
    kvs.iter().map(|kv| plain_kv(kv, with_values)).collect()
}

fn plain_range(header: &Header, answer: &RangeAnswer) -> RangeResponse {
    RangeResponse {
        header: header(answer.revision),
        kvs: plain_kvs(&answer.kvs, answer.with_values),
        more: answer.more,
        count: answer.count,
    }
}

fn plain_put(header: &Header, revision: i64, prev: &Option<KeyRef>) -> PutResponse {
    PutResponse { header: header(revision), prev_kv: prev.as_ref().map(|kv| plain_kv(kv, true)) }
}

fn plain_delete(header: &Header, revision: i64, deleted: i64, prevs: &[KeyRef]) -> DeleteRangeResponse {
    DeleteRangeResponse { header: header(revision), deleted, prev_kvs: plain_kvs(prevs, true) }
}

fn plain_txn(header: &Header, answer: &TxnAnswer) -> TxnResponse {
    let inner: Header = Box::new(|revision| Some(ResponseHeader { revision, ..Default::default() }));
    let responses = answer.responses.iter().map(|response| match response {
        OpAnswer::Range(range) => Response::ResponseRange(plain_range(&inner, range)),
        OpAnswer::Put { revision, prev } => Response::ResponsePut(plain_put(&inner, *revision, prev)),
        OpAnswer::DeleteRange { revision, deleted, prevs } => {
            Response::ResponseDeleteRange(plain_delete(&inner, *revision, *deleted, prevs))
        }
        OpAnswer::Txn(nested) => Response::ResponseTxn(plain_txn(&inner, nested)),
    });
    TxnResponse {
        header: header(answer.revision),
        succeeded: answer.succeeded,
        responses: responses.map(|response| ResponseOp { response: Some(response) }).collect(),
    }
}

proptest! {
    #[test]
    fn what_is_written_by_hand_is_what_prost_writes(
        answer in answer_strategy(),
        ids in (any::<u64>(), any::<u64>()),
        term in 0u64..300,
    ) {
        let header: Header = Box::new(move |revision| {
            Some(ResponseHeader { cluster_id: ids.0, member_id: ids.1, revision, raft_term: term })
        });
        let wanted = match &answer {
            Answer::Put { revision, prev } => plain_put(&header, *revision, prev).encode_to_vec(),
            Answer::DeleteRange { revision, deleted, prevs } => {
                plain_delete(&header, *revision, *deleted, prevs).encode_to_vec()
            }
            Answer::Range(range) => plain_range(&header, range).encode_to_vec(),
            Answer::Txn(txn) => plain_txn(&header, txn).encode_to_vec(),
            other => unreachable!("{other:?}"),
        };
        // Segment 1 lies in memory, segment 2 does not.
        let segments = SegmentTable::in_memory([(1, log())]);
        let mut encoded = super::answer(&Head::new(ids.0, ids.1), term, &answer, &segments);
        for hole in std::mem::take(&mut encoded.holes) {
            prop_assert_eq!(hole.place.segment, 2);
            let place = hole.place;
            encoded.fill(hole, &value(place));
        }
        prop_assert_eq!(encoded.frame.message(), &wanted[..]);
        let capacity = encoded.frame.buffer().capacity();
        prop_assert!(capacity <= (wanted.len() + PREFIX_BYTES).max(64) * 2, "room was made for {} bytes", capacity);
    }
}

#[test]
fn what_grpc_cannot_carry_is_refused_in_its_words() {
    let status = error::send_too_large(2147483648, limits::SEND_BYTES_MAX);
    let text = "rpc error: code = ResourceExhausted desc = \
                grpc: trying to send message larger than max (2147483648 vs. 2147483647)";
    assert_eq!(status.to_string(), text);
}
