//! Raw requests in, raw answers out, where none has a body. The answers wanted are the reference 3.7.3 server's, without its
//! dates; `tests/peers.rs` asks a whole server for the rest.

use super::{
    super::{
        Whose,
        tests::{Fake, exchange_of, exchange_with},
    },
    *,
};
use crate::error;

const CLUSTER: u64 = 0x3c;
const REMOVED: u64 = 0xdead;
const HERE: &str = "X-Etcd-Cluster-Id: 3c";
const TEXT: &str = "Content-Type: text/plain; charset=utf-8";
const NOSNIFF: &str = "X-Content-Type-Options: nosniff";

struct FakePeer {
    fake: Fake,
    members: Vec<Member>,
    promotion: Result<(), Status>,
}

impl Default for FakePeer {
    fn default() -> Self {
        let member = Member {
            id: 17,
            peer_urls: vec!["http://p:1".into()],
            name: "a<b>&c".into(),
            client_urls: vec!["http://c:1".into()],
            is_learner: true,
        };
        FakePeer { fake: Fake::default(), members: vec![member], promotion: Ok(()) }
    }
}

/// What clients may ask is asked of another.
impl crate::http::Source for FakePeer {
    fn alarms(&self) -> Vec<crate::http::Alarm> {
        self.fake.alarms()
    }
    fn has_leader(&self) -> bool {
        self.fake.has_leader()
    }
    fn is_learner(&self) -> bool {
        self.fake.is_learner()
    }
    fn read(&self, linearizable: bool) -> LocalBoxFuture<Result<(), Status>> {
        self.fake.read(linearizable)
    }
    fn cluster_version(&self) -> Option<String> {
        self.fake.cluster_version()
    }
    fn storage_version(&self) -> Option<String> {
        self.fake.storage_version()
    }
    fn metrics(&self) -> String {
        self.fake.metrics()
    }
    fn raft_status(&self) -> crate::http::RaftStatus {
        self.fake.raft_status()
    }
    fn health_metrics(&self) -> &crate::observe::metrics::HealthMetrics {
        self.fake.health_metrics()
    }
    fn asks_for_users(&self) -> bool {
        self.fake.asks_for_users()
    }
    fn operates(&self, _: crate::grpc::Metadata, _: Option<Rc<str>>) -> Result<(), Status> {
        unreachable!("members do not operate")
    }
    fn cors(&self) -> &[String] {
        self.fake.cors()
    }
    fn host_whitelist(&self) -> &[String] {
        self.fake.host_whitelist()
    }
}

impl Source for FakePeer {
    fn cluster_id(&self) -> u64 {
        CLUSTER
    }
    fn member_id(&self) -> u64 {
        17
    }
    fn stated_version(&self) -> String {
        crate::version::stated("3.7")
    }
    fn members(&self) -> Vec<Member> {
        self.members.clone()
    }
    fn is_removed(&self, id: u64) -> bool {
        id == REMOVED
    }
    fn knows(&self, _: u64) -> bool {
        false
    }
    fn bring(&self, _: Brought) {}
    fn promote(&self, _: u64, _: Option<&[u8]>) -> LocalBoxFuture<Result<Vec<Member>, Status>> {
        let promoted = self.promotion.clone().map(|()| self.members.clone());
        Box::pin(std::future::ready(promoted))
    }
    fn renew(&self, _: i64) -> LocalBoxFuture<Result<i64, Status>> {
        Box::pin(std::future::ready(Err(error::NOT_PRIMARY_LESSOR)))
    }
    fn time_to_live(&self, _: i64, _: bool) -> LocalBoxFuture<Result<LeaseTimeToLiveResponse, Status>> {
        Box::pin(std::future::ready(Err(error::NOT_PRIMARY_LESSOR)))
    }
    fn values(&self, asked: Vec<Revision>) -> LocalBoxFuture<Bytes> {
        Box::pin(std::future::ready(format!("{asked:?}").into()))
    }
    fn is_downgrading(&self) -> LocalBoxFuture<Result<bool, Status>> {
        Box::pin(std::future::ready(self.promotion.clone().map(|()| true)))
    }
    fn spool(&self) -> LocalBoxFuture<io::Result<Spool>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::StorageFull.into())))
    }
    fn install(&self, _: ReceivedSnapshot) -> LocalBoxFuture<Result<(), Status>> {
        unreachable!("nothing is spooled")
    }
    fn entries(&self, from: u64, to: u64) -> LocalBoxFuture<Result<Option<Vec<raftpb::Entry>>, Status>> {
        let entry = |index| raftpb::Entry { index: Some(index), term: Some(3), ..raftpb::Entry::default() };
        Box::pin(std::future::ready(match from {
            // It has 5 to 7, and cannot read 8.
            0..5 => Ok(None),
            5..8 => Ok(Some((from..=to.min(7)).map(entry).collect())),
            8 => Err(error::STOPPED),
            _ => Ok(Some(Vec::new())),
        }))
    }
    fn hash(&self, _: i64) -> LocalBoxFuture<Result<(KvHash, i64), Status>> {
        Box::pin(std::future::ready(Err(error::COMPACTED)))
    }
    fn spans(&self) -> Vec<SpanHash> {
        vec![SpanHash { last: 4096, hash: 7 }, SpanHash { last: 8192, hash: u32::MAX }]
    }
}

type Told = (String, Vec<String>, String);

fn ask(fake: FakePeer, method: &str, path: &str, headers: &str) -> Told {
    exchange_of(Whose::Peers(Rc::new(fake)), method, path, headers)
}

fn told(status: &str, headers: &[&str], body: &str) -> Told {
    let mut headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
    headers.push(format!("Content-Length: {}", body.len()));
    headers.sort();
    (format!("HTTP/1.1 {status}"), headers, body.to_owned())
}

#[test]
fn members_are_told_in_gos_json() {
    let listed = "[{\"id\":17,\"peerURLs\":[\"http://p:1\"],\"isLearner\":true,\"name\":\"a\\u003cb\\u003e\\u0026c\",\
                  \"clientURLs\":[\"http://c:1\"]}]\n";
    let wanted = told("200 OK", &["Content-Type: application/json", HERE], listed);
    assert_eq!(ask(FakePeer::default(), "GET", "/members", ""), wanted);
    assert_eq!(ask(FakePeer::default(), "POST", "/members/promote/17", ""), wanted);
    // Too long for Go to know the length.
    let many = FakePeer { members: vec![FakePeer::default().members.remove(0); 30], ..FakePeer::default() };
    let (_, headers, _) = ask(many, "GET", "/members", "");
    assert!(headers.contains(&"Transfer-Encoding: chunked".to_owned()), "{headers:?}");
}

#[test]
fn a_promotion_is_refused_in_etcds_words() {
    let refused = |status: Status| {
        ask(FakePeer { promotion: Err(status), ..FakePeer::default() }, "POST", "/members/promote/17", "")
    };
    let plain = |status: &str, text: &str| told(status, &[TEXT, NOSNIFF, HERE], &format!("{text}\n"));
    assert_eq!(refused(error::MEMBER_NOT_FOUND), plain("404 Not Found", "membership: ID not found"));
    let failed = "412 Precondition Failed";
    let wanted = plain(failed, "membership: can only promote a learner member");
    assert_eq!(refused(error::MEMBER_NOT_LEARNER), wanted);
    let wanted = plain(failed, "etcdserver: can only promote a learner member which is in sync with leader");
    assert_eq!(refused(error::LEARNER_NOT_READY), wanted);
    let wanted = told(
        "500 Internal Server Error",
        &["Content-Type: application/json", HERE],
        "{\"message\":\"Internal Server Error\"}",
    );
    assert_eq!(refused(error::USER_EMPTY), wanted);
}

#[test]
fn a_downgrade_is_told_of() {
    let wanted = told("200 OK", &["Content-Type: text/plain", HERE], "true");
    assert_eq!(ask(FakePeer::default(), "GET", "/downgrade/enabled", ""), wanted);
    let failing = FakePeer { promotion: Err(error::TIMEOUT), ..FakePeer::default() };
    let text = format!("failed linearized read: {}\n", error::TIMEOUT.message);
    let wanted = told("500 Internal Server Error", &[TEXT, NOSNIFF, HERE], &text);
    assert_eq!(ask(failing, "GET", "/downgrade/enabled", ""), wanted);
}

/// Urd's own: etcd answers as to any path that it does not know.
#[test]
fn entries_are_given_to_a_member_of_the_same_cluster() {
    let asked = |path: &str| ask(FakePeer::default(), "GET", path, "X-Etcd-Cluster-ID: 3c\r\n");
    let listed = |body: &str| told("200 OK", &["Content-Type: application/protobuf", HERE], body);
    assert_eq!(asked("/urd/entries?from=6&to=9"), listed("\x04\x10\x03\x18\x06\x04\x10\x03\x18\x07"));
    assert_eq!(asked("/urd/entries?to=5&from=5"), listed("\x04\x10\x03\x18\x05"));
    assert_eq!(asked("/urd/entries?from=9&to=9"), listed(""));
    let refused = |status: &str, text: &str| told(status, &[TEXT, NOSNIFF, HERE], &format!("{text}\n"));
    assert_eq!(asked("/urd/entries?from=4&to=9"), refused("404 Not Found", "entry 4 is not kept any more"));
    let stopped = refused("500 Internal Server Error", &error::STOPPED.message);
    assert_eq!(asked("/urd/entries?from=8&to=9"), stopped);
    let refused = |status: &str, text: &str| told(status, &[TEXT, NOSNIFF], &format!("{text}\n"));
    for query in
        ["", "?from=5", "?to=5", "?from=0&to=5", "?from=-1&to=5", "?from=x&to=5", "?from=5&to=99999999999999999999"]
    {
        let wanted = refused("400 Bad Request", "two indexes are wanted: from and to");
        assert_eq!(asked(&format!("/urd/entries{query}")), wanted, "{query}");
    }
    for other in ["", "X-Etcd-Cluster-ID: 3d\r\n"] {
        let wanted = refused("412 Precondition Failed", "cluster ID mismatch");
        assert_eq!(ask(FakePeer::default(), "GET", "/urd/entries?from=5&to=5", other), wanted);
    }
    let wanted = told("405 Method Not Allowed", &[TEXT, NOSNIFF, "Allow: GET"], "Method Not Allowed\n");
    assert_eq!(ask(FakePeer::default(), "POST", "/urd/entries?from=5&to=5", ""), wanted);
}

/// The version before the cluster, the cluster before the path, the path before the sender.
#[test]
fn streams_are_refused_in_etcds_order() {
    let ours = "X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: 3c\r\n";
    let old = "X-Server-Version: 2.3.0\r\nX-Etcd-Cluster-ID: 1\r\n";
    let strange = "X-Server-Version: 3.6.0\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: 03c\r\n";
    let (failed, nowhere) = ("412 Precondition Failed", "404 Not Found");
    for (path, headers, status, text) in [
        ("message/1", old, failed, "incompatible version"),
        ("message/1", "", failed, "incompatible version"),
        ("nothing/1", strange, failed, "cluster ID mismatch"),
        ("nothing/1", ours, nowhere, "invalid path"),
        ("message", ours, nowhere, "invalid path"),
        ("", ours, nowhere, "invalid path"),
        ("message/", ours, nowhere, "invalid from"),
        ("msgapp/+1", ours, nowhere, "invalid from"),
        ("msgapp/1ffffffffffffffff", ours, nowhere, "invalid from"),
        ("msgapp/dead", ours, "410 Gone", "removed member"),
        ("msgapp/DEAD", ours, "410 Gone", "removed member"),
        ("msgapp/11", ours, nowhere, "error sender not found"),
    ] {
        let wanted = told(status, &[TEXT, NOSNIFF, HERE, "X-Server-Version: 3.7.3"], &format!("{text}\n"));
        assert_eq!(ask(FakePeer::default(), "GET", &format!("/raft/stream/{path}"), headers), wanted, "{path}");
    }
}

/// What etcd's members never ask.
#[test]
fn values_are_told_to_members_of_the_cluster_alone() {
    let failed = "412 Precondition Failed";
    for headers in ["", "X-Etcd-Cluster-ID: 3d\r\n"] {
        let wanted = told(failed, &[TEXT, NOSNIFF], "cluster ID mismatch\n");
        assert_eq!(ask(FakePeer::default(), "POST", "/urd/values", headers), wanted, "{headers:?}");
    }
    let wanted = told("405 Method Not Allowed", &[TEXT, NOSNIFF, "Allow: POST"], "Method Not Allowed\n");
    assert_eq!(ask(FakePeer::default(), "GET", "/urd/values", "X-Etcd-Cluster-ID: 3c\r\n"), wanted);
    // No question.
    let wanted = told("400 Bad Request", &[TEXT, NOSNIFF], "error unmarshalling request\n");
    assert_eq!(ask(FakePeer::default(), "POST", "/urd/values", "X-Etcd-Cluster-ID: 3c\r\n"), wanted);
}

#[test]
fn what_clients_ask_is_not_answered() {
    for path in ["/health", "/metrics", "/v3/kv/range", "/debug/vars", "/", "/leases/", "/raft/x", "/members/x"] {
        let wanted = told("404 Not Found", &[TEXT, NOSNIFF], "404 page not found\n");
        assert_eq!(ask(FakePeer::default(), "GET", path, ""), wanted, "{path}");
    }
    for (path, allowed) in [("/raft", "POST"), ("/raft/snapshot", "POST"), ("/members/promote/1", "POST")] {
        let allow = format!("Allow: {allowed}");
        let wanted = told("405 Method Not Allowed", &[TEXT, NOSNIFF, &allow], "Method Not Allowed\n");
        assert_eq!(ask(FakePeer::default(), "GET", path, ""), wanted, "{path}");
    }
    let wanted = told("405 Method Not Allowed", &[TEXT, NOSNIFF], "Method Not Allowed\n");
    assert_eq!(ask(FakePeer::default(), "GET", "/leases", ""), wanted);
    let wanted = told("400 Bad Request", &["Connection: close"], "");
    assert_eq!(ask(FakePeer::default(), "GET", "*", ""), wanted);
    assert_eq!(ask(FakePeer::default(), "OPTIONS", "*", ""), told("200 OK", &[], ""));
    let nameless = exchange_with(Whose::Peers(Rc::new(FakePeer::default())), "GET /members HTTP/1.1\r\n\r\n", false);
    assert!(nameless.1 && nameless.0.ends_with("400 Bad Request: missing required Host header"), "{nameless:?}");
}

/// What etcd's members never ask.
#[test]
fn spans_are_told_to_members_of_the_cluster_alone() {
    let wanted = told("200 OK", &["Content-Type: application/json", HERE], r#"{"4096":7,"8192":4294967295}"#);
    assert_eq!(ask(FakePeer::default(), "GET", "/urd/spans", &format!("{HERE}\r\n")), wanted);
    for headers in ["", "X-Etcd-Cluster-ID: 77\r\n"] {
        let (status, _, body) = ask(FakePeer::default(), "GET", "/urd/spans", headers);
        assert_eq!((&status[..], &body[..]), ("HTTP/1.1 412 Precondition Failed", "cluster ID mismatch\n"));
    }
    assert_eq!(ask(FakePeer::default(), "POST", "/urd/spans", "").0, "HTTP/1.1 405 Method Not Allowed");
}
