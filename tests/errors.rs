//! Every error that etcd can give to a client, by the table of what etcd 3.7.3 has: each is provoked on a running server by a
//! call of its own and told with exactly the table's code and text, or it is named here why one member cannot be brought to
//! it. The table is data of its own, so that a wrong word in `src/error.rs` is found.
//! (etcd: api/v3rpc/rpctypes, server/etcdserver/api/v3rpc/util.go.)

mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use bytes::Bytes;
use server::{Server, soon, users};
use urd::{
    error,
    proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse},
};
use urd_client::{
    Client, Error,
    authpb::{Permission, UserAddOptions, permission::Type},
    etcdserverpb::{alarm_request::AlarmAction, downgrade_request::DowngradeAction, *},
    op,
    v3electionpb::*,
    v3lockpb::*,
};

const TABLE: &str = include_str!("compatibility/etcd-3.7.3-errors.tsv");

/// Name, code, text.
type Row = (&'static str, &'static str, &'static str);

fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [name, code, text] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three columns: {line}") };
        (name, code, text)
    })
}

/// What a cluster of one member is never brought to by a client, and why.
const UNPROVOKED: &[(&str, &str)] = &[
    ("WatchCanceled", "told to a stream whose client has gone, which does not hear it"),
    ("MemberExist", "ids are hashes of the URLs and the time: the URLs are refused first"),
    ("ClusterIDMismatch", "clients compare the ids of headers themselves"),
    (
        "RequestTooManyRequests",
        "takes thousands of requests that wait to be applied, which a member alone is too quick for",
    ),
    ("NoLeader", "a member alone leads itself"),
    ("NotLeader", "the same"),
    ("LeaderChanged", "the same"),
    ("NotCapable", "the cluster's version is beyond 3.0 before anybody is answered"),
    ("Stopped", "a server that stops closes its connections soon after: whether the text arrives is chance"),
    ("Timeout", "takes a disk that does not answer: tests/power has one"),
    ("TimeoutDueToLeaderFail", "takes a leader that is lost"),
    ("TimeoutDueToConnectionLost", "takes members that are lost"),
    ("TimeoutWaitAppliedIndex", "takes an apply that is behind by a second"),
    ("TimeoutLeaderTransfer", "takes a second voter that does not answer"),
    ("NotPrimary", "takes a leader that cannot confirm that it is one"),
    ("Unhealthy", "takes voters that are not connected"),
    ("NotSupportedForLearner", "a member alone is a voter"),
    ("ClusterVersionUnavailable", "the cluster's version is decided before anybody is answered"),
    ("NoInflightDowngrade", "etcd 3.7 answers a cancellation of nothing well"),
    ("Canceled", "who has cancelled a call does not hear how it ends"),
    ("DeadlineExceeded", "etcd hands over the context's own error before it looks at this one"),
    (
        "ContextDeadlineExceeded",
        "etcd ends the stream at its deadline; urd's words are tested in src/grpc/tests/lifetime.rs",
    ),
    ("ContextCanceled", "who has cancelled a call does not hear how it ends"),
];

/// urd's own, which etcd has not: each is a row of docs/compatibility.md.
const OWN: &[&error::Status] = &[
    &error::STREAM_PIN_TOO_OLD,
    &error::SNAPSHOT_PIN_TOO_OLD,
    &error::SNAPSHOT_PIN_TOO_LARGE,
    &error::TOO_MANY_UNFINISHED,
];

/// The names of what has been provoked.
#[derive(Default)]
struct Provoked(BTreeSet<&'static str>);

impl Provoked {
    /// By a call that was refused.
    #[track_caller]
    fn by<T: Debug>(&mut self, name: &'static str, result: Result<T, Error>) {
        let (_, code, text) = rows().find(|row| row.0 == name).unwrap_or_else(|| panic!("{name} is not in the table"));
        let error = match result {
            Ok(answer) => panic!("{name} was not provoked: {answer:?}"),
            Err(error) => error,
        };
        let told = (error.code().map(error::Code::name), error.message());
        assert_eq!(told, (Some(code), text), "{name}");
        self.0.insert(name);
    }

    /// By a watch that was cancelled: its reason is the text alone.
    #[track_caller]
    fn by_reason(&mut self, name: &'static str, answer: &WatchResponse) {
        let (_, _, text) = rows().find(|row| row.0 == name).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!((answer.canceled, &answer.cancel_reason[..]), (true, text), "{name}");
        self.0.insert(name);
    }
}

#[test]
fn the_table_is_the_servers() {
    let wanted: BTreeMap<&str, &str> = rows().map(|(_, code, text)| (text, code)).collect();
    assert_eq!(wanted.len(), rows().count(), "no text is there twice");
    let own: Vec<&str> = OWN.iter().map(|status| &*status.message).collect();
    let has: BTreeMap<&str, &str> = error::ALL
        .iter()
        .filter(|status| !own.contains(&&*status.message))
        .map(|status| (&*status.message, status.code.name()))
        .collect();
    assert_eq!(has, wanted);
    assert_eq!(error::ALL.len(), has.len() + own.len(), "nothing is there twice");
}

#[tokio::test]
async fn every_error_is_provoked_or_it_is_said_why_not() {
    let mut provoked = Provoked::default();
    {
        let server = Server::start_with(&[users::CHEAP]).await;
        let client = server.client().await;
        keys(&mut provoked, &client).await;
        calls(&mut provoked, &client).await;
        leases(&mut provoked, &client).await;
        locks(&mut provoked, &client).await;
        members(&mut provoked, &client).await;
        downgrades(&mut provoked, &client).await;
        alarms(&mut provoked, &client).await;
    }
    {
        let server = Server::start_with(&[users::CHEAP]).await;
        manage_users(&mut provoked, &server.client().await).await;
    }
    signed_tokens(&mut provoked).await;

    let excused: BTreeSet<&str> = UNPROVOKED.iter().map(|(name, _)| *name).collect();
    let both: Vec<_> = excused.intersection(&provoked.0).collect();
    assert!(both.is_empty(), "{both:?} can be provoked, after all");
    let all: BTreeSet<&str> = rows().map(|row| row.0).collect();
    let covered: BTreeSet<&str> = excused.union(&provoked.0).copied().collect();
    assert_eq!(covered, all);
    println!("{} errors provoked, {} cannot be", provoked.0.len(), excused.len());
}

async fn keys(provoked: &mut Provoked, client: &Client) {
    let put = PutRequest { key: "k".into(), ..Default::default() };
    provoked.by("EmptyKey", client.put("", "v").await);
    provoked.by("KeyNotFound", client.call(&PutRequest { ignore_value: true, ..put.clone() }).await);
    let value = PutRequest { ignore_value: true, value: "v".into(), ..put.clone() };
    provoked.by("ValueProvided", client.call(&value).await);
    provoked.by("LeaseProvided", client.call(&PutRequest { ignore_lease: true, lease: 7, ..put.clone() }).await);
    let many = TxnRequest { success: (0..129).map(|i| op::put(format!("{i}"), "v")).collect(), ..Default::default() };
    provoked.by("TooManyOps", client.call(&many).await);
    let twice = TxnRequest { success: vec![op::put("k", "1"), op::put("k", "2")], ..Default::default() };
    provoked.by("DuplicateKey", client.call(&twice).await);
    let order = RangeRequest { key: "k".into(), sort_order: 9, ..Default::default() };
    provoked.by("InvalidSortOption", client.call(&order).await);
    provoked.by("RequestTooLarge", client.put("k", vec![b'v'; 1_700_000]).await);
    let revision = client.put("k", "v").await.unwrap().header.unwrap().revision;
    provoked.by("FutureRev", client.compact(revision + 1).await);
    client.compact(revision).await.unwrap();
    provoked.by("Compacted", client.compact(revision).await);

    let range = RangeRequest { key: "k".into(), ..Default::default() };
    let sorted = RangeRequest { sort_order: 1, sort_target: 4, ..range.clone() };
    provoked.by("RangeStreamSort", soon(client.range_stream(&sorted).await.unwrap().next()).await);
    let filtered = RangeRequest { min_mod_revision: 1, ..range };
    provoked.by("RangeStreamFilter", soon(client.range_stream(&filtered).await.unwrap().next()).await);

    let mut watcher = client.watcher().await.unwrap();
    let watch = WatchCreateRequest { key: "k".into(), watch_id: 7, ..Default::default() };
    watcher.create(watch.clone()).unwrap();
    assert!(soon(watcher.next()).await.unwrap().created);
    watcher.create(watch.clone()).unwrap();
    provoked.by_reason("WatcherDuplicateID", &soon(watcher.next()).await.unwrap());
    watcher.create(WatchCreateRequest { range_end: "a".into(), watch_id: 8, ..watch }).unwrap();
    provoked.by_reason("EmptyWatcherRange", &soon(watcher.next()).await.unwrap());
}

/// What is said of the call itself, whatever it asks.
async fn calls(provoked: &mut Provoked, client: &Client) {
    let strange = client.with_metadata_bytes("client-api-version", b"\xff");
    provoked.by("InvalidClientAPIVersion", strange.get("k").await);
    provoked.by("NoUnaryMessage", client.unary_bytes("/etcdserverpb.KV/Range", Bytes::new()).await);
    let stream = client.stream_at::<(), RangeStreamResponse>("/etcdserverpb.KV/RangeStream").await;
    let (silent, mut answers) = stream.unwrap();
    silent.finish().unwrap();
    provoked.by("NoRequestMessage", soon(answers.next()).await);
    let unknown = HealthCheckRequest { service: "nobody".into() };
    let health = client.unary::<_, HealthCheckResponse>("/grpc.health.v1.Health/Check", &unknown).await;
    provoked.by("HealthUnknownService", health);
}

async fn leases(provoked: &mut Provoked, client: &Client) {
    provoked.by("LeaseTTLTooLarge", client.grant(7, 9_000_000_001).await);
    client.grant(7, 600).await.unwrap();
    provoked.by("LeaseExist", client.grant(7, 600).await);
    client.revoke(7).await.unwrap();
    provoked.by("LeaseNotFound", client.revoke(7).await);
}

async fn locks(provoked: &mut Provoked, client: &Client) {
    for lease in 1..=2 {
        client.grant(lease, 600).await.unwrap();
    }
    let lock = |lease| LockRequest { name: "mutex".into(), lease };
    let held = soon(client.call(&lock(1))).await.unwrap();
    let waiter = {
        let client = client.clone();
        tokio::spawn(async move { client.call(&lock(2)).await })
    };
    soon(async {
        while client.range("mutex/", "mutex0").await.unwrap().count < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    client.revoke(2).await.unwrap();
    client.call(&UnlockRequest { key: held.key }).await.unwrap();
    provoked.by("SessionExpired", soon(waiter).await.unwrap());

    provoked.by("ElectionNoLeader", client.call(&LeaderRequest { name: "poll".into() }).await);
    provoked.by("MissingLeaderKey", client.call(&ProclaimRequest::default()).await);
    let nobody = LeaderKey { name: "poll".into(), key: "poll/1".into(), rev: 99, lease: 1 };
    let words = ProclaimRequest { leader: Some(nobody), value: "v".into() };
    provoked.by("ElectionNotLeader", client.call(&words).await);
}

async fn members(provoked: &mut Provoked, client: &Client) {
    let own = client.member_list().await.unwrap().members.remove(0);
    let add = async |url: &str| client.call(&MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner: true }).await;
    let promote = async |id| client.call(&MemberPromoteRequest { id }).await;
    provoked.by("MemberBadURLs", add("nonsense").await);
    provoked.by("PeerURLExist", add(&own.peer_ur_ls[0]).await);
    provoked.by("MemberNotFound", promote(77).await);
    provoked.by("MemberNotLearner", promote(own.id).await);
    let learner = add("http://127.0.0.1:1").await.unwrap().member.unwrap();
    provoked.by("TooManyLearners", add("http://127.0.0.1:2").await);
    provoked.by("LearnerNotReady", promote(learner.id).await);
    provoked.by("MemberNotEnoughStarted", client.call(&MemberRemoveRequest { id: own.id }).await);
    provoked.by("BadLeaderTransferee", client.call(&MoveLeaderRequest { target_id: learner.id }).await);
    client.call(&MemberRemoveRequest { id: learner.id }).await.unwrap();
}

async fn downgrades(provoked: &mut Provoked, client: &Client) {
    let downgrade =
        async |action: i32, version: &str| client.call(&DowngradeRequest { action, version: version.into() }).await;
    let (validate, enable) = (DowngradeAction::Validate as i32, DowngradeAction::Enable as i32);
    let stored_as = async |version: &str| {
        soon(async {
            while client.status().await.unwrap().storage_version != version {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    stored_as("3.7.0").await;
    provoked.by("UnknownMethod", downgrade(9, "3.6").await);
    provoked.by("WrongDowngradeVersionFormat", downgrade(validate, "nonsense").await);
    provoked.by("InvalidDowngradeTargetVersion", downgrade(validate, "3.5").await);
    downgrade(enable, "3.6").await.unwrap();
    stored_as("3.6.0").await;
    provoked.by("DowngradeInProcess", downgrade(enable, "3.5").await);
    downgrade(DowngradeAction::Cancel as i32, "").await.unwrap();
}

async fn alarms(provoked: &mut Provoked, client: &Client) {
    for (name, alarm) in [("NoSpace", AlarmType::Nospace), ("Corrupt", AlarmType::Corrupt)] {
        let request = |action: AlarmAction| AlarmRequest { action: action as i32, member_id: 5, alarm: alarm as i32 };
        client.call(&request(AlarmAction::Activate)).await.unwrap();
        provoked.by(name, client.put("k", "v").await);
        client.call(&request(AlarmAction::Deactivate)).await.unwrap();
    }
}

async fn manage_users(provoked: &mut Provoked, client: &Client) {
    provoked.by("AuthNotEnabled", client.log_in("root", "root").await.map(drop));
    provoked.by("UserEmpty", client.add_user("", "pw").await);
    provoked.by("PasswordTooLong", client.add_user("ann", &"x".repeat(73)).await);
    provoked.by("RootUserNotExist", client.call(&AuthEnableRequest {}).await);
    client.add_user("root", "root").await.unwrap();
    provoked.by("UserAlreadyExist", client.add_user("root", "root").await);
    provoked.by("RootRoleNotExist", client.call(&AuthEnableRequest {}).await);
    provoked.by("UserNotFound", client.call(&AuthUserGetRequest { name: "nobody".into() }).await);
    provoked.by("RoleEmpty", client.add_role("").await);
    provoked.by("RoleNotFound", client.grant_role("root", "nothing").await);
    users::add(client, "ann", &[(Type::Readwrite, "a", "b")]).await;
    provoked.by("RoleAlreadyExist", client.add_role("ann").await);
    let revoke = AuthUserRevokeRoleRequest { name: "ann".into(), role: "root".into() };
    provoked.by("RoleNotGranted", client.call(&revoke).await);
    let nothing = AuthRoleGrantPermissionRequest { name: "ann".into(), perm: None };
    provoked.by("PermissionNotGiven", client.call(&nothing).await);
    let beyond = AuthRoleRevokePermissionRequest { role: "ann".into(), key: "x".into(), ..Default::default() };
    provoked.by("PermissionNotGranted", client.call(&beyond).await);
    let keyless = AuthRoleGrantPermissionRequest { name: "ann".into(), perm: Some(Permission::default()) };
    provoked.by("InvalidAuthMgmt", client.call(&keyless).await);
    let certified = AuthUserAddRequest {
        name: "cert".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    client.call(&certified).await.unwrap();

    client.grant_role("root", "root").await.unwrap();
    client.call(&AuthEnableRequest {}).await.unwrap();
    provoked.by("AuthFailed", client.log_in("ann", "wrong").await.map(drop));
    provoked.by("NoPasswordUser", client.log_in("cert", "pw").await.map(drop));
    provoked.by("InvalidAuthToken", client.with_metadata("token", "nonsense").get("a").await);
    provoked.by("PermissionDenied", client.log_in("ann", "pw").await.unwrap().get("x").await);
}

async fn signed_tokens(provoked: &mut Provoked) {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    let public = format!("--auth-token=jwt,sign-method=ES256,pub-key={keys}/ec256-pub.pem");
    let server = Server::start_with(&[users::CHEAP, &format!("{public},priv-key={keys}/ec256.pem")]).await;
    let root = users::enable(&server.client().await).await;
    root.add_role("r").await.unwrap();
    provoked.by("AuthOldRevision", root.put("a", "v").await);

    let server = Server::start_with(&[users::CHEAP, &public]).await;
    let client = server.client().await;
    client.add_user("root", "root").await.unwrap();
    client.grant_role("root", "root").await.unwrap();
    client.call(&AuthEnableRequest {}).await.unwrap();
    provoked.by("VerifyOnly", client.log_in("root", "root").await.map(drop));
}
