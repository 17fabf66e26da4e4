//! That no method and no field with a key in it gets past the check of who may do what: every method of the descriptors has
//! a row that says what it takes, and every way to a key, a range's end, a lease or a previous value, through all that can
//! be nested, is tried by a user who may not. (etcd API, service Auth.)

mod server;

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use server::{PATIENCE, Server, soon, users};
use urd::error::{self, Code, Status};
use urd_client::{Client, Error, authpb::permission, etcdserverpb::*, v3electionpb::*, v3lockpb::*};

/// What a method takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// No name.
    Nothing,
    /// A name, whoever's.
    Name,
    /// Permissions for the keys that it is about.
    Keys,
    /// Root's role.
    Root,
}

#[rustfmt::skip]
const METHODS: &[(&str, &[(&str, Takes)])] = &[
    ("etcdserverpb.KV", &[
        ("Range", Takes::Keys), ("RangeStream", Takes::Keys), ("Put", Takes::Keys), ("DeleteRange", Takes::Keys),
        ("Txn", Takes::Keys), ("Compact", Takes::Root),
    ]),
    ("etcdserverpb.Watch", &[("Watch", Takes::Keys)]),
    ("etcdserverpb.Lease", &[
        ("LeaseGrant", Takes::Name), ("LeaseRevoke", Takes::Keys), ("LeaseKeepAlive", Takes::Keys),
        ("LeaseTimeToLive", Takes::Keys), ("LeaseLeases", Takes::Keys),
    ]),
    ("etcdserverpb.Cluster", &[
        ("MemberAdd", Takes::Root), ("MemberRemove", Takes::Root), ("MemberUpdate", Takes::Root),
        ("MemberList", Takes::Name), ("MemberPromote", Takes::Root),
    ]),
    ("etcdserverpb.Maintenance", &[
        ("Alarm", Takes::Name), ("Status", Takes::Name), ("Defragment", Takes::Root), ("Hash", Takes::Root),
        ("HashKV", Takes::Root), ("Snapshot", Takes::Root), ("MoveLeader", Takes::Root), ("Downgrade", Takes::Root),
    ]),
    ("etcdserverpb.Auth", &[
        ("AuthEnable", Takes::Root), ("AuthDisable", Takes::Root), ("AuthStatus", Takes::Nothing),
        ("Authenticate", Takes::Nothing), ("UserAdd", Takes::Root), ("UserGet", Takes::Root),
        ("UserList", Takes::Root), ("UserDelete", Takes::Root), ("UserChangePassword", Takes::Root),
        ("UserGrantRole", Takes::Root), ("UserRevokeRole", Takes::Root), ("RoleAdd", Takes::Root),
        ("RoleGet", Takes::Root), ("RoleList", Takes::Root), ("RoleDelete", Takes::Root),
        ("RoleGrantPermission", Takes::Root), ("RoleRevokePermission", Takes::Root),
    ]),
    ("v3lockpb.Lock", &[("Lock", Takes::Keys), ("Unlock", Takes::Keys)]),
    ("v3electionpb.Election", &[
        ("Campaign", Takes::Keys), ("Proclaim", Takes::Keys), ("Leader", Takes::Keys), ("Observe", Takes::Keys),
        ("Resign", Takes::Keys),
    ]),
    ("grpc.health.v1.Health", &[("Check", Takes::Nothing), ("List", Takes::Nothing), ("Watch", Takes::Nothing)]),
];

/// A field that what is permitted depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Key,
    RangeEnd,
    Lease,
    PrevKv,
}

/// Numbers of fields, from the request on.
type Path = Vec<i32>;

struct Schema {
    messages: BTreeMap<String, DescriptorProto>,
    methods: BTreeMap<(String, String), MethodDescriptorProto>,
}

impl Schema {
    fn read() -> Self {
        let set = FileDescriptorSet::decode(urd::DESCRIPTORS).expect("descriptors");
        let mut schema = Schema { messages: BTreeMap::new(), methods: BTreeMap::new() };
        for file in set.file {
            let package = file.package().to_owned();
            for message in &file.message_type {
                schema.messages.insert(format!(".{package}.{}", message.name()), message.clone());
            }
            for service in &file.service {
                for method in &service.method {
                    let name = (format!("{package}.{}", service.name()), method.name().to_owned());
                    schema.methods.insert(name, method.clone());
                }
            }
        }
        schema
    }

    /// What a field is to the check. A field of bytes that is not known here has to be thought of first.
    fn leaf(&self, message: &str, field: &FieldDescriptorProto) -> Option<Leaf> {
        match (field.r#type(), field.name()) {
            (Type::Bytes, "key") => Some(Leaf::Key),
            (Type::Bytes, "range_end") => Some(Leaf::RangeEnd),
            (Type::Bytes, "name") if message.starts_with(".v3") => Some(Leaf::Key),
            (Type::Bytes, "value") => None,
            (Type::Bytes, other) => panic!("{message}.{other}: is it a key?"),
            (Type::Int64, "lease") if message == ".etcdserverpb.PutRequest" => Some(Leaf::Lease),
            (Type::Int64, "ID") if message != ".etcdserverpb.LeaseGrantRequest" => Some(Leaf::Lease),
            (Type::Bool, "prev_kv") => Some(Leaf::PrevKv),
            _ => None,
        }
    }

    /// All ways to such fields, through so many transactions at most.
    fn leaves(&self, message: &str, txns: usize) -> Vec<(Path, Leaf)> {
        let mut found = Vec::new();
        if message == ".etcdserverpb.TxnRequest" && txns == 0 {
            return found;
        }
        let inner_txns = txns - usize::from(message == ".etcdserverpb.TxnRequest");
        for field in &self.messages[message].field {
            if field.r#type() == Type::Message {
                for (path, leaf) in self.leaves(field.type_name(), inner_txns) {
                    found.push(([&[field.number()], &path[..]].concat(), leaf));
                }
            } else if let Some(leaf) = self.leaf(message, field) {
                found.push((vec![field.number()], leaf));
            }
        }
        found
    }

    /// A request that goes the way to a field; at its end what a user may have, or may not.
    fn request(&self, message: &str, path: &[i32], forbidden: bool) -> Bytes {
        let mut out = BytesMut::new();
        for field in &self.messages[message].field {
            let number = field.number();
            let on_path = path.first() == Some(&number);
            match field.r#type() {
                Type::Message if on_path => {
                    bytes(&mut out, number, &self.request(field.type_name(), &path[1..], forbidden));
                }
                Type::Message => {}
                Type::Bytes => match self.leaf(message, field) {
                    Some(Leaf::Key) => bytes(&mut out, number, if on_path && forbidden { b"secret" } else { b"mine" }),
                    // Beyond the one key that is permitted.
                    Some(Leaf::RangeEnd) if on_path && forbidden => bytes(&mut out, number, b"z"),
                    _ => {}
                },
                Type::Int64 if self.leaf(message, field) == Some(Leaf::Lease) => {
                    number_field(
                        &mut out,
                        number,
                        match on_path && forbidden {
                            true => SECRET_LEASE,
                            // A put without a lease, unless it is what the path leads to.
                            false if message == ".etcdserverpb.PutRequest" && !on_path => 0,
                            false => MY_LEASE,
                        },
                    );
                }
                Type::Bool if on_path => number_field(&mut out, number, i64::from(forbidden)),
                // A lease's keys are what may be secret.
                Type::Bool if field.name() == "keys" => number_field(&mut out, number, 1),
                Type::String if field.label() == Label::Repeated => bytes(&mut out, number, b"http://10.0.0.1:1"),
                Type::String => bytes(&mut out, number, b"root"),
                _ => {}
            }
        }
        out.freeze()
    }
}

const SECRET_LEASE: i64 = 7;
const MY_LEASE: i64 = 8;

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn bytes(out: &mut BytesMut, number: i32, value: &[u8]) {
    varint(out, (number as u64) << 3 | 2);
    varint(out, value.len() as u64);
    out.put_slice(value);
}

fn number_field(out: &mut BytesMut, number: i32, value: i64) {
    varint(out, (number as u64) << 3);
    varint(out, value as u64);
}

async fn answered<T>(path: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("{path} is not answered"))
}

/// What is said to a request, be it by a status or within an answer; None: nothing against it.
async fn refusal(client: &Client, service: &str, method: &str, schema: &Schema, request: Bytes) -> Option<Error> {
    let path = format!("/{service}/{method}");
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(request.len() as u32);
    framed.put_slice(&request);
    let described = &schema.methods[&(service.to_owned(), method.to_owned())];
    if !described.client_streaming() && !described.server_streaming() {
        return answered(&path, client.unary_bytes(&path, framed.freeze())).await.err();
    }
    let (mut sender, mut receiver) = match client.stream_at::<(), WatchResponse>(&path).await {
        Ok(stream) => stream,
        Err(error) => return Some(error),
    };
    sender.send_bytes(framed.freeze()).unwrap();
    // A call of one request is not served before its end is seen.
    let _open = match described.client_streaming() {
        true => Some(sender),
        false => {
            sender.finish().unwrap();
            None
        }
    };
    let answer = match answered(&path, receiver.next_bytes()).await {
        Ok(answer) => answer?,
        Err(error) => return Some(error),
    };
    if method != "Watch" || service != "etcdserverpb.Watch" {
        return None;
    }
    let reason = WatchResponse::decode(answer).unwrap().cancel_reason;
    let statuses = [error::USER_EMPTY, error::INVALID_AUTH_TOKEN, error::PERMISSION_DENIED, error::AUTH_OLD_REVISION];
    if reason.is_empty() {
        return None;
    }
    let status = statuses.into_iter().find(|status| status.to_string() == reason);
    let status = status.unwrap_or_else(|| panic!("another reason: {reason}"));
    Some(Error::Status { code: status.code, message: status.message.into_owned() })
}

#[track_caller]
fn expect(refusal: &Option<Error>, wanted: &Status, what: &str) {
    let right = refusal.as_ref().is_some_and(|error| error.is(wanted));
    assert!(right, "{what}: {} was wanted, and said was {refusal:?}", wanted.message);
}

/// Whatever was said, it was not for want of a name or a permission.
#[track_caller]
fn expect_let_in(refusal: &Option<Error>, what: &str) {
    let kept_out = [error::USER_EMPTY, error::INVALID_AUTH_TOKEN, error::PERMISSION_DENIED, error::AUTH_OLD_REVISION];
    if let Some(error) = refusal {
        assert!(!kept_out.iter().any(|status| error.is(status)), "{what}: {error}");
        assert_ne!(error.code(), None, "{what}: {error}");
    }
}

#[test]
fn every_method_has_a_row() {
    let rows: Vec<(String, String)> = METHODS
        .iter()
        .flat_map(|(service, methods)| methods.iter().map(|(method, _)| (service.to_string(), method.to_string())))
        .collect();
    let schema = Schema::read();
    assert_eq!(rows.len(), schema.methods.len());
    for name in schema.methods.keys() {
        assert!(rows.contains(name), "{name:?} has no row");
    }
}

#[test]
fn the_ways_to_keys_are_found() {
    let schema = Schema::read();
    let leaves = |message: &str, txns| schema.leaves(&format!(".etcdserverpb.{message}"), txns).len();
    assert_eq!((leaves("RangeRequest", 1), leaves("PutRequest", 1), leaves("DeleteRangeRequest", 1)), (2, 3, 3));
    assert_eq!((leaves("TxnRequest", 1), leaves("TxnRequest", 2)), (18, 54));
    assert_eq!((leaves("WatchRequest", 1), leaves("LeaseRevokeRequest", 1)), (3, 1));
}

#[tokio::test]
async fn nothing_gets_past_the_check() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let anybody = server.client().await;
    for (lease, key) in [(SECRET_LEASE, "secret"), (MY_LEASE, "mine")] {
        anybody.grant(lease, 6000).await.unwrap();
        anybody.call(&PutRequest { key: key.into(), lease, ..Default::default() }).await.unwrap();
    }
    users::add(&anybody, "ann", &[(permission::Type::Readwrite, "mine", "")]).await;
    users::add(&anybody, "writer", &[(permission::Type::Write, "mine", "")]).await;
    users::enable(&anybody).await;
    let (ann, writer) = (anybody.log_in("ann", "pw").await.unwrap(), anybody.log_in("writer", "pw").await.unwrap());
    let stranger = anybody.with_metadata("token", "nonsense");

    let schema = Schema::read();
    let (mut methods, mut ways) = (0, 0);
    for (service, method, takes) in METHODS
        .iter()
        .flat_map(|(service, methods)| methods.iter().map(move |(method, takes)| (*service, *method, *takes)))
    {
        // These two are made of calls of the others, refuse in other codes and may wait for ever: they have a test of
        // their own.
        if service.starts_with("v3") {
            continue;
        }
        methods += 1;
        let message = schema.methods[&(service.to_owned(), method.to_owned())].input_type().to_owned();
        let leaves = schema.leaves(&message, 3);
        let plain = match leaves.first() {
            Some((path, _)) => schema.request(&message, path, false),
            None => schema.request(&message, &[], false),
        };
        let ask =
            async |client: &Client, request: &Bytes| refusal(client, service, method, &schema, request.clone()).await;
        let named = takes != Takes::Nothing;
        match named {
            true => expect(&ask(&anybody, &plain).await, &error::USER_EMPTY, &format!("{method} of nobody")),
            false => expect_let_in(&ask(&anybody, &plain).await, method),
        }
        let proves_nothing = method == "Authenticate" || service == "grpc.health.v1.Health";
        match proves_nothing {
            true => expect_let_in(&ask(&stranger, &plain).await, method),
            false => {
                expect(&ask(&stranger, &plain).await, &error::INVALID_AUTH_TOKEN, &format!("{method} of a stranger"))
            }
        }
        match takes {
            Takes::Nothing | Takes::Name => expect_let_in(&ask(&ann, &plain).await, method),
            Takes::Root => expect(&ask(&ann, &plain).await, &error::PERMISSION_DENIED, &format!("{method} of a user")),
            // All leases there are, one of whose keys is secret.
            Takes::Keys if method == "LeaseLeases" => {
                expect(&ask(&ann, &plain).await, &error::PERMISSION_DENIED, method);
            }
            Takes::Keys => {
                assert!(!leaves.is_empty(), "{method} is about no key");
                for (path, leaf) in &leaves {
                    let what = format!("{method}, fields {path:?}, {leaf:?}");
                    let permitted = schema.request(&message, path, false);
                    expect_let_in(&ask(&ann, &permitted).await, &what);
                    let forbidden = schema.request(&message, path, true);
                    let asks = if *leaf == Leaf::PrevKv { &writer } else { &ann };
                    expect(&ask(asks, &forbidden).await, &error::PERMISSION_DENIED, &what);
                    ways += 1;
                }
            }
        }
    }
    assert!(methods > 35 && ways > 140, "{methods} methods, {ways} ways");
    println!("{methods} methods, {ways} ways to a key");
}

/// What a lock or an election is made of is asked of its caller: the refusal is that of the call within, and etcd loses
/// its code on the way.
#[tokio::test]
async fn locks_and_elections_are_their_callers() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let anybody = server.client().await;
    users::add(&anybody, "ann", &[(permission::Type::Readwrite, "mine/", "mine0")]).await;
    users::add(&anybody, "reader", &[(permission::Type::Read, "mine/", "mine0")]).await;
    let root = users::enable(&anybody).await;
    let (ann, reader) = (anybody.log_in("ann", "pw").await.unwrap(), anybody.log_in("reader", "pw").await.unwrap());
    let stranger = anybody.with_metadata("token", "nonsense");
    for lease in 1..=4 {
        ann.grant(lease, 600).await.unwrap();
    }
    let lock = |name: &str, lease| LockRequest { name: name.to_owned().into(), lease };
    let stand = |name: &str, lease| CampaignRequest { name: name.to_owned().into(), lease, value: "v".into() };
    let lead = |name: &str| LeaderRequest { name: name.to_owned().into() };
    let unlock = |key: &str| UnlockRequest { key: key.to_owned().into() };
    let leader_key =
        |key: &str, rev| Some(LeaderKey { name: "secret".into(), key: key.to_owned().into(), rev, lease: 1 });
    let proclaim = |key: &str, rev| ProclaimRequest { leader: leader_key(key, rev), value: "w".into() };
    let resign = |key: &str, rev| ResignRequest { leader: leader_key(key, rev) };

    for (client, lease, status) in [
        (&anybody, 1, error::USER_EMPTY),
        (&anybody, 0, error::USER_EMPTY),
        (&stranger, 1, error::INVALID_AUTH_TOKEN),
        (&ann, 1, error::PERMISSION_DENIED),
    ] {
        let relayed = Status { code: Code::Unknown, ..status };
        server::refused(soon(client.call(&lock("secret", lease))).await, &relayed);
        server::refused(soon(client.call(&unlock("secret/1"))).await, &relayed);
        server::refused(soon(client.call(&stand("secret", lease))).await, &relayed);
        server::refused(soon(client.call(&lead("secret"))).await, &relayed);
        server::refused(soon(client.call(&proclaim("secret/1", 2))).await, &relayed);
        server::refused(soon(client.call(&resign("secret/1", 2))).await, &relayed);
        // Whatever ends an observation, it ends well.
        let mut observed = client.observe("secret").await.unwrap();
        assert!(soon(observed.next()).await.unwrap().is_none());
    }
    // To read is not enough to hold, and enough to look on.
    let relayed = Status { code: Code::Unknown, ..error::PERMISSION_DENIED };
    server::refused(soon(reader.call(&lock("mine", 2))).await, &relayed);
    server::refused(soon(reader.call(&stand("mine", 2))).await, &relayed);

    let held = soon(ann.call(&lock("mine", 1))).await.unwrap();
    assert_eq!(held.key, "mine/1");
    server::refused(soon(reader.call(&unlock("mine/1"))).await, &relayed);
    let waiting = {
        let (ann, request) = (ann.clone(), lock("mine", 2));
        tokio::spawn(async move { ann.call(&request).await })
    };
    soon(async {
        while root.range("mine/", "mine0").await.unwrap().count < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    soon(ann.call(&unlock("mine/1"))).await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap().key, "mine/2");
    soon(ann.call(&unlock("mine/2"))).await.unwrap();

    let elected = soon(ann.call(&stand("mine", 3))).await.unwrap().leader.unwrap();
    let mut observed = reader.observe("mine").await.unwrap();
    assert_eq!(soon(observed.expect()).await.unwrap().kv.unwrap().value, "v");
    let words = ProclaimRequest { leader: Some(elected.clone()), value: "w".into() };
    server::refused(soon(reader.call(&words)).await, &relayed);
    soon(ann.call(&words)).await.unwrap();
    assert_eq!(soon(observed.expect()).await.unwrap().kv.unwrap().value, "w");
    assert_eq!(soon(reader.call(&lead("mine"))).await.unwrap().kv.unwrap().value, "w");
    server::refused(soon(reader.call(&ResignRequest { leader: Some(elected.clone()) })).await, &relayed);
    soon(ann.call(&ResignRequest { leader: Some(elected) })).await.unwrap();
}

/// A request of an alarm only asks, or does what only root may.
#[tokio::test]
async fn alarms_are_roots_to_change() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let anybody = server.client().await;
    users::add(&anybody, "ann", &[]).await;
    let root = users::enable(&anybody).await;
    let ann = anybody.log_in("ann", "pw").await.unwrap();
    for (action, allowed) in [(0, true), (1, false), (2, false)] {
        let request = AlarmRequest { action, member_id: 5, alarm: 1 };
        match allowed {
            true => drop(ann.call(&request).await.unwrap()),
            false => server::refused(ann.call(&request).await, &error::PERMISSION_DENIED),
        }
        root.call(&request).await.unwrap();
        assert_eq!(anybody.call(&request).await.unwrap_err().code(), Some(Code::InvalidArgument));
    }
}
