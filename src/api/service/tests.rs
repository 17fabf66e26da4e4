use prost_types::FileDescriptorSet;

use super::*;
use crate::{
    api::testing::{Bench, MEMBER_ID},
    grpc,
    proto::etcdserverpb::*,
};

#[test]
fn the_table_is_the_descriptors() {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    let set = FileDescriptorSet::decode(&bytes[..]).unwrap();
    let mut wanted: Vec<(String, Shape)> = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let streams = method.client_streaming() || method.server_streaming();
                let shape = if streams { Shape::Stream } else { Shape::Unary };
                wanted.push((format!("/{}.{}/{}", file.package(), service.name(), method.name()), shape));
            }
        }
    }
    assert!(wanted.len() > 50, "the descriptors hold all services");
    let services = Bench::new().services;
    for (path, shape) in &wanted {
        let route = services.route(path).unwrap_or_else(|| panic!("{path} has no row"));
        assert_eq!(route.shape, *shape, "{path}");
        let row = services.rows[usize::from(route.method)];
        assert_eq!(format!("/{}/{}", row.service, row.method), *path);
    }
    assert_eq!(METHODS.len(), wanted.len(), "a row names a method that does not exist");
    assert_eq!(services.route("/etcdserverpb.KV/Nope"), None);
}

#[test]
fn garbage_is_refused_before_anything_is_looked_at() {
    let mut bench = Bench::new();
    let garbage = |bench: &mut Bench, path, bytes: &'static [u8]| {
        bench.call_raw(path, Bytes::from_static(bytes), grpc::Metadata::default()).unwrap_err().to_string()
    };
    let text = "rpc error: code = Internal desc = grpc: error unmarshalling request: ";
    for path in
        ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn", "/etcdserverpb.Lease/LeaseGrant"]
    {
        let refused = garbage(&mut bench, path, b"\x0a\x05");
        assert_eq!(refused, format!("{text}proto: cannot parse invalid wire-format data"), "{path}");
    }
    let refused = garbage(&mut bench, "/grpc.health.v1.Health/Check", b"\x0a\x01\xff");
    assert_eq!(refused, format!("{text}string field contains invalid UTF-8"));
}

#[test]
fn metadata_is_checked_for_every_call() {
    let mut bench = Bench::new();
    let metadata = grpc::Metadata::default().with("hasleader", b"true");
    let path = "/etcdserverpb.Maintenance/Status";
    assert!(bench.call_raw(path, Bytes::new(), metadata.clone()).is_ok());
    bench.shard().member.standing.leader.store(0, Relaxed);
    assert_eq!(bench.call_raw(path, Bytes::new(), metadata.clone()).unwrap_err(), error::NO_LEADER);
    assert!(bench.call_raw(path, Bytes::new(), grpc::Metadata::default()).is_ok());
    let metadata = metadata.with("client-api-version", b"\xff");
    assert_eq!(bench.call_raw(path, Bytes::new(), metadata).unwrap_err(), error::INVALID_CLIENT_API_VERSION);
}

#[test]
fn a_stream_that_needs_a_leader_ends_after_three_elections_without() {
    let bench = Bench::new();
    let (shard, member) = (bench.shard(), &bench.shard().member);
    let mut waiting = Box::pin(shard.leaderless());
    let mut ended = || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        waiting.as_mut().poll(&mut context).is_ready()
    };
    member.standing.leader.store(0, Relaxed);
    shard.tick(1000);
    shard.tick(3999);
    member.standing.leader.store(MEMBER_ID, Relaxed);
    shard.tick(4000);
    member.standing.leader.store(0, Relaxed);
    shard.tick(4100);
    shard.tick(7099);
    assert!(!ended());
    shard.tick(7100);
    assert!(ended());
}

#[test]
fn over_the_quota_the_alarm_is_raised_once_and_before_anything_else_is_said() {
    let mut bench = Bench::with(|config| config.quota_bytes = Some(1_000_000));
    bench.shard().member.db_size.store(1_000_000 - 256 - 2, Relaxed);
    let put = |value: &str| PutRequest { key: "k".into(), value: value.to_owned().into(), ..Default::default() };
    bench.ask::<PutResponse>("/etcdserverpb.KV/Put", &put("")).unwrap();
    assert_eq!(bench.proposals.len(), 1);
    // The quota is looked at before the arguments: this one has no key.
    let bad = PutRequest { key: Bytes::new(), value: vec![0; 500].into(), ..Default::default() };
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &bad).unwrap_err(), error::NO_SPACE);
    assert!(bench.state.alarms.iter().eq([(AlarmType::Nospace as i32, MEMBER_ID)]));
    assert_eq!(bench.proposals.len(), 2);
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &put("v")).unwrap_err(), error::NO_SPACE);
    let grant = LeaseGrantRequest { ttl: 5, id: 7 };
    bench.shard().member.db_size.store(1_000_000 - 64, Relaxed);
    assert_eq!(bench.call("/etcdserverpb.Lease/LeaseGrant", &grant).unwrap_err(), error::NO_SPACE);
    assert_eq!(bench.proposals.len(), 2, "one alarm is enough");
    // What takes no space is served.
    bench.call("/etcdserverpb.KV/DeleteRange", &DeleteRangeRequest { key: "k".into(), ..Default::default() }).unwrap();
}

#[test]
fn without_a_quota_everything_fits() {
    let mut bench = Bench::with(|config| config.quota_bytes = None);
    bench.shard().member.db_size.store(u64::MAX / 2, Relaxed);
    bench.call("/etcdserverpb.KV/Put", &PutRequest { key: "k".into(), ..Default::default() }).unwrap();
}

#[test]
fn a_request_is_too_large_by_its_logged_form() {
    let mut bench = Bench::with(|config| config.max_request_bytes = 1000);
    let put = |len: usize| PutRequest { key: "k".into(), value: vec![1; len].into(), ..Default::default() };
    let logged = {
        bench.call("/etcdserverpb.KV/Put", &put(500)).unwrap();
        bench.proposals[0].len()
    };
    let room = 1000 - (logged - 500);
    bench.call("/etcdserverpb.KV/Put", &put(room)).unwrap();
    assert_eq!(bench.proposals[1].len(), 1000);
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &put(room + 1)).unwrap_err(), error::REQUEST_TOO_LARGE);
}

#[test]
fn who_crosses_the_quota_while_being_applied_raises_the_alarm_too() {
    let mut bench = Bench::with(|config| config.quota_bytes = Some(1_000_000));
    let put = PutRequest { key: "k".into(), ..Default::default() };
    let Unary::Later(begun) = kv::put(bench.services.clone(), Caller::Member, put.encode_to_vec().into()) else {
        panic!()
    };
    // The space is gone between the look at the quota and the apply.
    bench.shard().member.db_size.store(1_000_000, Relaxed);
    assert_eq!(bench.run(begun).unwrap_err(), error::NO_SPACE);
    assert_eq!(bench.state.index.current(), 2, "the write is done all the same");
    assert!(bench.state.alarms.iter().eq([(AlarmType::Nospace as i32, MEMBER_ID)]));
}

/// Where the default limit lies for the member 14206537526899429144 of etcd 3.7.3: a value of 1,572,839 bytes under a
/// key of one is let in, one byte more is not.
#[test]
fn the_largest_request_is_etcds() {
    let member = crate::shard::Member::new(14206537526899429144, 1, Default::default(), 1_700_000_000_000);
    let put = PutRequest { key: "k".into(), value: vec![1; 1_572_839].into(), ..Default::default() };
    let data = crate::api::request::internal(Kind::Put, &put.encode_to_vec(), member.next_id());
    assert_eq!(data.len(), member.config.max_request_bytes);
}

#[test]
fn a_stopped_shard_refuses_what_would_wait() {
    let mut bench = Bench::new();
    let put = PutRequest { key: "k".into(), ..Default::default() };
    let Unary::Later(mut begun) = kv::put(bench.services.clone(), Caller::Member, put.encode_to_vec().into()) else {
        panic!()
    };
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(begun.as_mut().poll(&mut context).is_pending());
    bench.shard().stop();
    assert_eq!(bench.run(begun).unwrap_err(), error::STOPPED);
    assert_eq!(bench.call("/etcdserverpb.KV/Put", &put).unwrap_err(), error::STOPPED);
    let range = RangeRequest { key: "k".into(), ..Default::default() };
    assert_eq!(bench.call("/etcdserverpb.KV/Range", &range).unwrap_err(), error::STOPPED);
    let time = LeaseTimeToLiveRequest { id: 1, keys: false };
    assert_eq!(bench.call("/etcdserverpb.Lease/LeaseTimeToLive", &time).unwrap_err(), error::STOPPED);
    let serializable = RangeRequest { serializable: true, ..range };
    bench.call("/etcdserverpb.KV/Range", &serializable).unwrap();
}
