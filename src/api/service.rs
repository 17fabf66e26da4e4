//! The services of one shard behind the gRPC layer's `Handler`: one table of every method, the checks that all calls
//! share, the way of a write into the log. Knows no wire but protobuf, and keeps no state of a call.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use prost::Message;
use tokio::sync::Semaphore;

use super::{
    auth,
    caller::{Caller, Proven, Refused},
    cluster, downgrade, election, health, kv, lease, lock, maintenance,
    passwords::Passwords,
    request::Kind,
    watch,
};
use crate::{
    error::{self, Status},
    grpc::{
        Call, Frame, Handler, LocalBoxFuture, Route, Shape, Unary,
        stream::{Replies, Requests},
    },
    limits, log,
    observe::metrics::{Operation, Stage, methods},
    peers::client::Client,
    proto::etcdserverpb::{AlarmRequest, AlarmType, RangeRequest, ResponseHeader, alarm_request::AlarmAction},
    runtime,
    shard::{Shard, view::View},
    store::apply::Answer,
};

/// A streaming call served to its end; what it gives goes into the trailers.
pub(super) type Served = LocalBoxFuture<Result<(), Status>>;

/// What serves a method.
#[derive(Clone, Copy)]
enum Serve {
    Unary(fn(Rc<Services>, Caller, Bytes) -> Unary),
    Stream(fn(Rc<Services>, Call, Requests, Replies) -> Served),
}

/// A method by its service, its name and what serves it.
struct Row {
    service: &'static str,
    method: &'static str,
    serve: Serve,
}

impl Row {
    fn shape(&self) -> Shape {
        match self.serve {
            Serve::Unary(_) => Shape::Unary,
            Serve::Stream(_) => Shape::Stream,
        }
    }
}

macro_rules! table {
    ($($service:literal { $($method:ident: $kind:ident($what:expr);)* })*) => {
        &[$($(Row { service: $service, method: stringify!($method), serve: Serve::$kind($what) },)*)*]
    };
}

/// Every method of every service.
const METHODS: &[Row] = table! {
    "etcdserverpb.KV" {
        Range: Unary(kv::range);
        RangeStream: Stream(super::range_stream::serve);
        Put: Unary(kv::put);
        DeleteRange: Unary(kv::delete_range);
        Txn: Unary(kv::txn);
        Compact: Unary(kv::compact);
    }
    "etcdserverpb.Watch" {
        Watch: Stream(watch_stream);
    }
    "etcdserverpb.Lease" {
        LeaseGrant: Unary(lease::grant);
        LeaseRevoke: Unary(lease::revoke);
        LeaseKeepAlive: Stream(lease::keep_alive);
        LeaseTimeToLive: Unary(lease::time_to_live);
        LeaseLeases: Unary(lease::leases);
    }
    "etcdserverpb.Cluster" {
        MemberAdd: Unary(cluster::member_add);
        MemberRemove: Unary(cluster::member_remove);
        MemberUpdate: Unary(cluster::member_update);
        MemberList: Unary(cluster::member_list);
        MemberPromote: Unary(cluster::member_promote);
    }
    "etcdserverpb.Maintenance" {
        Alarm: Unary(maintenance::alarm);
        Status: Unary(maintenance::status);
        Defragment: Unary(maintenance::defragment);
        Hash: Unary(maintenance::hash);
        HashKV: Unary(maintenance::hash_kv);
        Snapshot: Stream(super::snapshot::serve);
        MoveLeader: Unary(maintenance::move_leader);
        Downgrade: Unary(downgrade::downgrade);
    }
    "etcdserverpb.Auth" {
        AuthEnable: Unary(auth::enable);
        AuthDisable: Unary(auth::disable);
        AuthStatus: Unary(auth::status);
        Authenticate: Unary(auth::authenticate);
        UserAdd: Unary(auth::user_add);
        UserGet: Unary(auth::user_get);
        UserList: Unary(auth::user_list);
        UserDelete: Unary(auth::user_delete);
        UserChangePassword: Unary(auth::user_change_password);
        UserGrantRole: Unary(auth::user_grant_role);
        UserRevokeRole: Unary(auth::user_revoke_role);
        RoleAdd: Unary(auth::role_add);
        RoleGet: Unary(auth::role_get);
        RoleList: Unary(auth::role_list);
        RoleDelete: Unary(auth::role_delete);
        RoleGrantPermission: Unary(auth::role_grant_permission);
        RoleRevokePermission: Unary(auth::role_revoke_permission);
    }
    "v3lockpb.Lock" {
        Lock: Unary(lock::lock);
        Unlock: Unary(lock::unlock);
    }
    "v3electionpb.Election" {
        Campaign: Unary(election::campaign);
        Proclaim: Unary(election::proclaim);
        Leader: Unary(election::leader);
        Observe: Stream(election::observe);
        Resign: Unary(election::resign);
    }
    "grpc.health.v1.Health" {
        Check: Unary(health::check);
        List: Unary(health::list);
        Watch: Stream(health::watch);
    }
};

fn watch_stream(services: Rc<Services>, call: Call, requests: Requests, replies: Replies) -> Served {
    Box::pin(watch::serve(services, call, requests, replies))
}

/// Everything that one shard serves.
pub struct Services {
    pub shard: Rc<Shard>,
    pub client: Client,
    /// Turns of what is asked of the leader.
    pub(super) forwards: Semaphore,
    routes: HashMap<String, Route>,
    /// By `methods::number`.
    rows: Box<[&'static Row]>,
    reads: ReadClock,
    /// A NOSPACE alarm of this member is on its way through the log.
    raising_no_space: Cell<bool>,
    pub(super) passwords: Passwords,
    /// Signed tokens by their text. (`limits::PROVEN_TOKENS_MAX`)
    pub(super) proven_tokens: RefCell<HashMap<Box<str>, Proven>>,
    /// Calls that wait for a lock or an election, which `inside` counts.
    pub(super) waiting_inside: Cell<usize>,
}

impl Services {
    /// `client`: for what only the leader can answer.
    pub fn new(shard: Rc<Shard>, client: Client) -> Rc<Self> {
        let row_of = |(service, method): (&str, &str)| {
            METHODS
                .iter()
                .find(|row| (row.service, row.method) == (service, method))
                .expect("a counted method is served")
        };
        let rows: Box<[&Row]> = methods::METHODS.iter().map(|(service, method, _)| row_of((service, method))).collect();
        let routes = rows
            .iter()
            .enumerate()
            .map(|(number, row)| {
                let route = Route { method: number as u16, shape: row.shape() };
                (format!("/{}/{}", row.service, row.method), route)
            })
            .collect();
        Rc::new(Services {
            shard,
            client,
            forwards: Semaphore::new(limits::FORWARDS_AT_ONCE),
            routes,
            rows,
            reads: ReadClock::default(),
            raising_no_space: Cell::new(false),
            passwords: Passwords::default(),
            proven_tokens: RefCell::default(),
            waiting_inside: Cell::new(0),
        })
    }

    /// Does a read that takes no turn of its own, and says how long it took.
    pub(super) fn timed<T>(&self, read: impl FnOnce() -> T) -> (T, Duration) {
        self.reads.time(read)
    }

    /// How long such a read takes, as last measured.
    pub(super) fn read_takes(&self) -> Duration {
        self.reads.last.get()
    }

    /// A request has been served, whatever came of it.
    pub(super) fn answered(&self, operation: Operation, success: bool, took: Duration) {
        let metrics = &self.shard.metrics;
        metrics.request_duration.observe(operation, success, took);
        metrics.stages.observe(Stage::Request, took);
        let config = &self.shard.member.config;
        if took.as_millis() as u64 >= config.warning_apply_ms.min(config.warning_unary_request_ms) {
            self.warn_slow(operation, success, took);
        }
    }

    /// The reference's own messages and fields, without what clients have asked for and been told.
    #[cold]
    fn warn_slow(&self, operation: Operation, success: bool, took: Duration) {
        let config = &self.shard.member.config;
        let (apply, unary) =
            (Duration::from_millis(config.warning_apply_ms), Duration::from_millis(config.warning_unary_request_ms));
        let prefix = match operation {
            Operation::Range => "read-only range ",
            Operation::ReadonlyTxn => "read-only txn ",
            _ => "",
        };
        if !prefix.is_empty() && took > apply {
            self.shard.metrics.slow_reads.increment();
            log!(Warn, "apply request took too long", "took" = took, "expected-duration" = apply, "prefix" = prefix);
        }
        if took > unary {
            log!(
                Warn,
                "request stats",
                "time spent" = took,
                "response type" = method_of(operation),
                "success" = success
            );
        }
    }

    /// Whether a request of this cost fits the quota. One that costs nothing always does.
    /// (etcd: storage/quota.go, BackendQuota.Available.)
    pub(super) fn quota_fits(&self, cost: u64) -> bool {
        let member = &self.shard.member;
        match member.config.quota_bytes {
            Some(quota) if cost > 0 => member.db_size.load(Relaxed) + cost < quota,
            _ => true,
        }
    }

    /// Refuses a request that the quota has no room for, once the alarm is raised.
    pub(super) fn out_of_space(self: Rc<Self>) -> Unary {
        if self.no_space_is_known() {
            return refuse(error::NO_SPACE);
        }
        later(async move {
            self.raise_no_space().await;
            Err(error::NO_SPACE)
        })
    }

    fn no_space_is_known(&self) -> bool {
        let alarm = (AlarmType::Nospace as i32, self.shard.member.id);
        self.raising_no_space.get() || self.shard.view().state.alarms.iter().any(|raised| raised == alarm)
    }

    async fn raise_no_space(&self) {
        self.raising_no_space.set(true);
        // If it fails, the next request over the quota raises it.
        self.raise(AlarmType::Nospace).await;
        self.raising_no_space.set(false);
    }

    /// Raises an alarm of this member. Whether that succeeds is seen by whether it is raised.
    pub async fn raise(&self, kind: AlarmType) {
        self.raise_of(self.shard.member.id, kind).await;
    }

    /// The same of another member; 0: of nobody in particular.
    pub async fn raise_of(&self, member_id: u64, kind: AlarmType) {
        let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id, alarm: kind as i32 };
        let (id, data) = kv::internal(&self.shard, Kind::Alarm, &alarm.encode_to_vec());
        let _ = self.shard.propose(id, data).await;
    }

    /// Has a request logged and applied, if its caller may make it. `body`: the request as its method spells it.
    ///
    /// # Errors
    /// Its caller's, its own; and where it went over the quota while it was applied, NO_SPACE, with the alarm raised
    /// (etcd: server.go, applyEntryNormal).
    pub(super) async fn propose(
        &self,
        caller: &Caller,
        kind: Kind,
        body: &[u8],
    ) -> Result<(Answer, Arc<View>), Status> {
        let since = runtime::recent();
        let (id, data) = match self.admitted(caller, kind, body).await {
            Ok(admitted) => admitted,
            Err(Refused::Unheard(status)) => {
                unheard(caller, kind, &status);
                return Err(status);
            }
            Err(Refused::Applied(status)) => {
                self.answered(kind.operation(), true, runtime::recent() - since);
                return Err(status);
            }
        };
        if let Some(span) = caller.span() {
            span.event("Send raft proposal");
        }
        let result = self.shard.propose(id, data).await;
        match (&result, caller.span()) {
            (Ok(_), Some(span)) => span.event("Receive raft result"),
            (Err(status), _) => unheard(caller, kind, status),
            (Ok(_), None) => {}
        }
        let took = runtime::recent() - since;
        self.shard.metrics.stages.observe(Stage::Proposal, took);
        // What applying it refuses is a success here, as in etcd (v3_server.go, processInternalRaftRequestOnce).
        self.answered(kind.operation(), result.is_ok(), took);
        let result = result.and_then(|(result, view)| result.map(|answer| (answer, view)));
        if matches!(&result, Err(status) if *status == error::NO_SPACE)
            && !self.raising_no_space.get()
            && !self.shard.view().state.alarms.is_raised(AlarmType::Nospace)
        {
            self.raise_no_space().await;
        }
        result
    }

    /// Whether this member does not vote: what it serves is its status, what it has applied, and a snapshot of that. (etcd:
    /// v3rpc/interceptor.go; util.go, isRPCSupportedForLearner.)
    fn is_learner(&self) -> bool {
        self.shard.member.is_learner.load(Relaxed)
    }

    /// What every call is refused for, whatever its method. (etcd: v3rpc/interceptor.go.)
    fn check_metadata(&self, call: &Call, is_stream: bool) -> Result<(), Status> {
        let version = call.metadata.get("client-api-version").map_or(Ok(""), std::str::from_utf8);
        let Ok(version) = version else { return Err(error::INVALID_CLIENT_API_VERSION) };
        self.shard.metrics.client_versions.count(version, is_stream);
        if needs_leader(call) && self.shard.member.standing.leader.load(Relaxed) == 0 {
            return Err(error::NO_LEADER);
        }
        Ok(())
    }

    fn serve_stream(
        self: Rc<Self>,
        row: &'static Row,
        call: Call,
        requests: Requests,
        replies: Replies,
    ) -> LocalBoxFuture<Result<(), Status>> {
        let Serve::Stream(serve) = row.serve else {
            return Box::pin(std::future::ready(Err(error::method_unimplemented(row.method))));
        };
        if !needs_leader(&call) {
            return serve(self, call, requests, replies);
        }
        let leaderless = self.shard.leaderless();
        let served = serve(self, call, requests, replies);
        Box::pin(async move {
            match futures_util::future::select(served, leaderless).await {
                futures_util::future::Either::Left((result, _)) => result,
                futures_util::future::Either::Right(_) => Err(error::NO_LEADER),
            }
        })
    }
}

fn learner_serves(row: &Row, message: &Bytes) -> bool {
    match (row.service, row.method) {
        ("etcdserverpb.Maintenance", "Status") => true,
        ("etcdserverpb.KV", "Range") => RangeRequest::decode(&message[..]).is_ok_and(|range| range.serializable),
        _ => false,
    }
}

/// A request was not applied, which its span tells. (etcd: v3_server.go, raftRequest, which a compaction does not go through.)
fn unheard(caller: &Caller, kind: Kind, why: &Status) {
    if kind != Kind::Compaction
        && let Some(span) = caller.span()
    {
        span.error(&why.message);
    }
}

/// Measures reads that are over at once: one in `SAMPLE` by the clock, of which two looks cost a tenth of such a read;
/// the others are told to have taken as long as that one.
#[derive(Default)]
pub(super) struct ReadClock {
    until_next: Cell<u32>,
    last: Cell<Duration>,
}

impl ReadClock {
    const SAMPLE: u32 = 16;

    pub fn time<T>(&self, read: impl FnOnce() -> T) -> (T, Duration) {
        if let Some(left) = self.until_next.get().checked_sub(1) {
            self.until_next.set(left);
            return (read(), self.last.get());
        }
        let began = runtime::now();
        let result = read();
        self.last.set(runtime::now() - began);
        self.until_next.set(Self::SAMPLE - 1);
        (result, self.last.get())
    }
}

/// The method that asks for an operation.
fn method_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Range => "/etcdserverpb.KV/Range",
        Operation::Put => "/etcdserverpb.KV/Put",
        Operation::DeleteRange => "/etcdserverpb.KV/DeleteRange",
        Operation::Txn | Operation::ReadonlyTxn => "/etcdserverpb.KV/Txn",
        Operation::Compaction => "/etcdserverpb.KV/Compact",
        Operation::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
        Operation::LeaseRevoke => "/etcdserverpb.Lease/LeaseRevoke",
        Operation::Alarm => "/etcdserverpb.Maintenance/Alarm",
        Operation::Authenticate => "/etcdserverpb.Auth/Authenticate",
        Operation::AuthEnable => "/etcdserverpb.Auth/AuthEnable",
        Operation::AuthDisable => "/etcdserverpb.Auth/AuthDisable",
        Operation::AuthStatus => "/etcdserverpb.Auth/AuthStatus",
        Operation::AuthUserAdd => "/etcdserverpb.Auth/UserAdd",
        Operation::AuthUserDelete => "/etcdserverpb.Auth/UserDelete",
        Operation::AuthUserGet => "/etcdserverpb.Auth/UserGet",
        Operation::AuthUserChangePassword => "/etcdserverpb.Auth/UserChangePassword",
        Operation::AuthUserGrantRole => "/etcdserverpb.Auth/UserGrantRole",
        Operation::AuthUserRevokeRole => "/etcdserverpb.Auth/UserRevokeRole",
        Operation::AuthUserList => "/etcdserverpb.Auth/UserList",
        Operation::AuthRoleList => "/etcdserverpb.Auth/RoleList",
        Operation::AuthRoleAdd => "/etcdserverpb.Auth/RoleAdd",
        Operation::AuthRoleDelete => "/etcdserverpb.Auth/RoleDelete",
        Operation::AuthRoleGet => "/etcdserverpb.Auth/RoleGet",
        Operation::AuthRoleGrantPermission => "/etcdserverpb.Auth/RoleGrantPermission",
        Operation::AuthRoleRevokePermission => "/etcdserverpb.Auth/RoleRevokePermission",
        Operation::ClusterVersionSet | Operation::ClusterMemberAttrSet | Operation::DowngradeInfoSet => "",
    }
}

/// Whether a call is to end where no leader is known.
fn needs_leader(call: &Call) -> bool {
    call.metadata.get("hasleader").is_some_and(|value| value == b"true")
}

impl Handler for Services {
    fn route(&self, path: &str) -> Option<Route> {
        self.routes.get(path).copied()
    }

    fn knows_service(&self, service: &str) -> bool {
        METHODS.iter().any(|row| row.service == service)
    }

    fn unary(self: Rc<Self>, method: u16, call: Call, message: Bytes) -> Unary {
        let row = self.rows[usize::from(method)];
        if self.is_learner() && !learner_serves(row, &message) {
            return refuse(error::NOT_SUPPORTED_FOR_LEARNER);
        }
        match (self.check_metadata(&call, false), row.serve) {
            (Err(status), _) => refuse(status),
            (Ok(()), Serve::Unary(serve)) => serve(self, Caller::of(call), message),
            (Ok(()), _) => refuse(error::method_unimplemented(row.method)),
        }
    }

    fn stream(
        self: Rc<Self>,
        method: u16,
        call: Call,
        requests: Requests,
        replies: Replies,
    ) -> LocalBoxFuture<Result<(), Status>> {
        let row = self.rows[usize::from(method)];
        if self.is_learner() && row.method != "Snapshot" {
            return Box::pin(std::future::ready(Err(error::NOT_SUPPORTED_FOR_LEARNER)));
        }
        if let Err(status) = self.check_metadata(&call, true) {
            return Box::pin(std::future::ready(Err(status)));
        }
        if self.has_token_to_come(&call.metadata) {
            // A refusal would be the end of a watch that goes on here after it was on another member. Whoever cannot be heard of
            // is answered all the same.
            return Box::pin(async move {
                let _ = self.shard.linearizable().await;
                self.serve_stream(row, call, requests, replies).await
            });
        }
        self.serve_stream(row, call, requests, replies)
    }
}

pub(super) fn refuse(status: Status) -> Unary {
    Unary::Ready(Err(status))
}

pub(super) fn later(future: impl Future<Output = Result<Frame, Status>> + 'static) -> Unary {
    Unary::Later(Box::pin(future))
}

/// The header of a response. Revision 0 stands for the store's.
pub(super) fn header(shard: &Shard, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: shard.member.cluster_id,
        member_id: shard.member.id,
        revision: if revision == 0 { shard.view().revision() } else { revision },
        raft_term: shard.member.term(),
    }
}

/// The request of a unary call.
///
/// # Errors
/// In grpc-go's words where the bytes are not what the method takes.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|cause| error::undecodable(&cause))
}

/// The one request of a call whose answers stream.
pub(super) async fn only_request<M: Message + Default>(requests: &mut Requests) -> Result<M, Status> {
    match requests.next().await {
        Some(message) => M::decode(message?).map_err(|cause| error::undecodable_in_stream(&cause)),
        None => Err(error::NO_REQUEST_MESSAGE),
    }
}

#[cfg(test)]
mod tests;
