//! What the properties draw: steps whose revisions are relative to where the store stands, so that past, compacted and
//! future ones are all met often.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use urd::proto::etcdserverpb::{alarm_request::AlarmAction, compare::TargetUnion, request_op::Request, *};

#[derive(Clone, Debug)]
pub enum Step {
    Request(Box<InternalRaftRequest>, Option<u64>),
    /// A range from a view, not by way of the log.
    Read(RangeRequest),
    /// A transaction of reads from a view.
    ReadTxn(TxnRequest),
    /// Goes on with a compaction for so many events.
    Sweep(usize),
    /// Moves a retained value, by its place among the events.
    Relocate(usize),
    /// Keeps a view, to be looked at again later.
    Keep,
    /// Compares everything that a watcher of this range sees from a revision.
    Watch(Bytes, Bytes, i64),
}

/// A revision as it is drawn: from NOW down relative to the current one, elsewhere as it is.
const NOW: i64 = 1 << 40;

/// The revision meant, where the store stands at `current` and is compacted to `compacted`.
pub fn resolve(drawn: i64, current: i64, compacted: i64) -> i64 {
    match drawn {
        drawn if drawn > NOW * 2 => compacted + (drawn - NOW * 3),
        drawn if drawn > NOW / 2 => current + (drawn - NOW),
        drawn => drawn,
    }
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => Just(0),
        4 => (-12i64..=0).prop_map(|back| NOW + back),
        1 => Just(NOW + 1),
        2 => (-1i64..=1).prop_map(|near| NOW * 3 + near),
        1 => -2i64..3,
    ]
}

/// Few names, some the beginnings of others, some at the ends of what bytes can be.
fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        12 => prop::sample::select(vec!["a", "aa", "ab", "b", "ba", "c", "d"]).prop_map(Bytes::from),
        1 => prop::sample::select(vec![&b"\0"[..], b"\xff", b"\xff\xff", b"a\0"]).prop_map(Bytes::from_static),
    ]
}

fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![3 => Just(Bytes::new()), 2 => Just(Bytes::from_static(b"\0")), 4 => key()]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "x", "y", "yy", "a value that is longer than the others"]).prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![12 => Just(0), 5 => 1i64..4, 1 => Just(-7)]
}

fn put() -> impl Strategy<Value = PutRequest> {
    (key(), value(), lease(), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest { key, range_end, prev_kv })
}

pub fn range() -> impl Strategy<Value = RangeRequest> {
    let filter = || prop_oneof![6 => Just(0), 1 => revision()];
    let filters = (filter(), filter(), filter(), filter());
    let options = (prop_oneof![3 => Just(0i64), 3 => 1i64..5, 1 => Just(-1)], 0i32..3, 0i32..5);
    let flags = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (key(), end(), revision(), options, flags, filters).prop_map(
        |(key, range_end, revision, options, flags, filters)| {
            RangeRequest {
                key,
                range_end,
                revision,
                limit: options.0,
                // Mostly in order of key, as clients ask.
                sort_order: options.1,
                sort_target: options.2,
                serializable: flags.0,
                keys_only: flags.1,
                count_only: flags.2,
                min_mod_revision: filters.0,
                max_mod_revision: filters.1,
                min_create_revision: filters.2,
                max_create_revision: filters.3,
            }
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let union = prop_oneof![
        3 => value().prop_map(TargetUnion::Value),
        2 => (0i64..4).prop_map(TargetUnion::Version),
        2 => revision().prop_map(TargetUnion::ModRevision),
        2 => revision().prop_map(TargetUnion::CreateRevision),
        2 => lease().prop_map(TargetUnion::Lease),
    ];
    // Mostly the target that belongs to the operand; sometimes another, or a result that nobody knows.
    let result = prop_oneof![12 => 0i32..4, 1 => Just(9)];
    (result, option::weighted(0.9, union), option::weighted(0.1, 0i32..5), key(), end()).prop_map(
        |(result, target_union, target, key, range_end)| {
            let natural = match &target_union {
                Some(TargetUnion::Version(_)) | None => 0,
                Some(TargetUnion::CreateRevision(_)) => 1,
                Some(TargetUnion::ModRevision(_)) => 2,
                Some(TargetUnion::Value(_)) => 3,
                Some(TargetUnion::Lease(_)) => 4,
            };
            Compare { result, target: target.unwrap_or(natural), key, target_union, range_end }
        },
    )
}

fn leaf() -> impl Strategy<Value = RequestOp> {
    prop_oneof![
        3 => put().prop_map(Request::RequestPut),
        2 => range().prop_map(Request::RequestRange),
        1 => delete().prop_map(Request::RequestDeleteRange),
    ]
    .prop_map(|request| RequestOp { request: Some(request) })
}

fn txn_of(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..3)).prop_map(|(compare, success, failure)| TxnRequest {
        compare,
        success,
        failure,
    })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let op = leaf().prop_recursive(3, 12, 4, |inner| {
        txn_of(inner.boxed()).prop_map(|txn| RequestOp { request: Some(Request::RequestTxn(txn)) })
    });
    txn_of(op.boxed())
}

fn read_txn() -> impl Strategy<Value = TxnRequest> {
    let op = range().prop_map(|range| RequestOp { request: Some(Request::RequestRange(range)) });
    txn_of(op.boxed())
}

fn request() -> impl Strategy<Value = InternalRaftRequest> {
    let of = InternalRaftRequest::default;
    // Cleared far more often than raised, or nearly everything would be refused.
    let action = prop_oneof![
        2 => Just(AlarmAction::Get),
        1 => Just(AlarmAction::Activate),
        8 => Just(AlarmAction::Deactivate),
    ];
    let alarm = (action, 0i32..3, 1u64..3).prop_map(|(action, alarm, member_id)| AlarmRequest {
        action: action as i32,
        alarm,
        member_id,
    });
    let grant = (
        prop_oneof![6 => 1i64..4, 1 => Just(-7), 1 => Just(0)],
        prop_oneof![4 => 1i64..100, 1 => Just(-1), 1 => Just(9_000_000_001)],
    );
    prop_oneof![
        16 => put().prop_map(move |put| InternalRaftRequest { put: Some(put), ..of() }),
        4 => delete().prop_map(move |delete| InternalRaftRequest { delete_range: Some(delete), ..of() }),
        1 => range().prop_map(move |range| InternalRaftRequest { range: Some(range), ..of() }),
        12 => txn().prop_map(move |txn| InternalRaftRequest { txn: Some(txn), ..of() }),
        3 => (revision(), any::<bool>()).prop_map(move |(revision, physical)| InternalRaftRequest {
            compaction: Some(CompactionRequest { revision, physical }),
            ..of()
        }),
        4 => grant.prop_map(move |(id, ttl)| InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id, ttl }),
            ..of()
        }),
        2 => prop_oneof![1i64..4, Just(-7)].prop_map(move |id| InternalRaftRequest {
            lease_revoke: Some(LeaseRevokeRequest { id }),
            ..of()
        }),
        1 => (1i64..4, 1i64..90).prop_map(move |(id, remaining_ttl)| InternalRaftRequest {
            lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints: vec![LeaseCheckpoint { id, remaining_ttl }] }),
            ..of()
        }),
        2 => alarm.prop_map(move |alarm| InternalRaftRequest { alarm: Some(alarm), ..of() }),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let room = prop_oneof![40 => Just(None), 1 => (0u64..600).prop_map(Some)];
    prop_oneof![
        30 => (request(), room).prop_map(|(request, room)| Step::Request(Box::new(request), room)),
        6 => range().prop_map(Step::Read),
        1 => read_txn().prop_map(Step::ReadTxn),
        4 => (1usize..8).prop_map(Step::Sweep),
        1 => any::<usize>().prop_map(Step::Relocate),
        1 => Just(Step::Keep),
        1 => (key(), end(), revision()).prop_map(|(key, end, start)| Step::Watch(key, end, start)),
    ]
}

/// Puts the revisions that are meant into a range.
pub fn resolve_range(range: &mut RangeRequest, at: &dyn Fn(i64) -> i64) {
    range.revision = at(range.revision);
    for filter in [
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        *filter = at(*filter);
    }
}

pub fn resolve_txn(txn: &mut TxnRequest, at: &dyn Fn(i64) -> i64) {
    for compare in &mut txn.compare {
        if let Some(TargetUnion::ModRevision(revision) | TargetUnion::CreateRevision(revision)) =
            &mut compare.target_union
        {
            *revision = at(*revision);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestRange(range)) => resolve_range(range, at),
            Some(Request::RequestTxn(nested)) => resolve_txn(nested, at),
            _ => {}
        }
    }
}
