//! Which path each request goes to, and the calls that tests and benches make most.

use bytes::Bytes;
use prost::Message;
use urd::proto::authpb::{Permission, permission};
use urd::proto::etcdserverpb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    *,
};

use crate::{Client, Error, Receiver};

/// A request of a unary method.
pub trait Unary: Message {
    type Answer: Message + Default;
    const PATH: &'static str;
}

/// A request of a streaming method.
pub trait Streaming: Message {
    type Answer: Message + Default;
    const PATH: &'static str;
}

macro_rules! methods {
    ($kind:ident: $($service:literal { $($method:literal: $request:ident -> $answer:ident;)* })*) => {
        $($(impl $kind for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/etcdserverpb.", $service, "/", $method);
        })*)*
    };
}

methods! { Unary:
    "KV" {
        "Range": RangeRequest -> RangeResponse;
        "Put": PutRequest -> PutResponse;
        "DeleteRange": DeleteRangeRequest -> DeleteRangeResponse;
        "Txn": TxnRequest -> TxnResponse;
        "Compact": CompactionRequest -> CompactionResponse;
    }
    "Lease" {
        "LeaseGrant": LeaseGrantRequest -> LeaseGrantResponse;
        "LeaseRevoke": LeaseRevokeRequest -> LeaseRevokeResponse;
        "LeaseTimeToLive": LeaseTimeToLiveRequest -> LeaseTimeToLiveResponse;
        "LeaseLeases": LeaseLeasesRequest -> LeaseLeasesResponse;
    }
    "Maintenance" {
        "Alarm": AlarmRequest -> AlarmResponse;
        "Status": StatusRequest -> StatusResponse;
        "Defragment": DefragmentRequest -> DefragmentResponse;
        "Hash": HashRequest -> HashResponse;
        "HashKV": HashKvRequest -> HashKvResponse;
        "MoveLeader": MoveLeaderRequest -> MoveLeaderResponse;
        "Downgrade": DowngradeRequest -> DowngradeResponse;
    }
    "Cluster" {
        "MemberAdd": MemberAddRequest -> MemberAddResponse;
        "MemberRemove": MemberRemoveRequest -> MemberRemoveResponse;
        "MemberUpdate": MemberUpdateRequest -> MemberUpdateResponse;
        "MemberList": MemberListRequest -> MemberListResponse;
        "MemberPromote": MemberPromoteRequest -> MemberPromoteResponse;
    }
    "Auth" {
        "AuthEnable": AuthEnableRequest -> AuthEnableResponse;
        "AuthDisable": AuthDisableRequest -> AuthDisableResponse;
        "AuthStatus": AuthStatusRequest -> AuthStatusResponse;
        "Authenticate": AuthenticateRequest -> AuthenticateResponse;
        "UserAdd": AuthUserAddRequest -> AuthUserAddResponse;
        "UserGet": AuthUserGetRequest -> AuthUserGetResponse;
        "UserList": AuthUserListRequest -> AuthUserListResponse;
        "UserDelete": AuthUserDeleteRequest -> AuthUserDeleteResponse;
        "UserChangePassword": AuthUserChangePasswordRequest -> AuthUserChangePasswordResponse;
        "UserGrantRole": AuthUserGrantRoleRequest -> AuthUserGrantRoleResponse;
        "UserRevokeRole": AuthUserRevokeRoleRequest -> AuthUserRevokeRoleResponse;
        "RoleAdd": AuthRoleAddRequest -> AuthRoleAddResponse;
        "RoleGet": AuthRoleGetRequest -> AuthRoleGetResponse;
        "RoleList": AuthRoleListRequest -> AuthRoleListResponse;
        "RoleDelete": AuthRoleDeleteRequest -> AuthRoleDeleteResponse;
        "RoleGrantPermission": AuthRoleGrantPermissionRequest -> AuthRoleGrantPermissionResponse;
        "RoleRevokePermission": AuthRoleRevokePermissionRequest -> AuthRoleRevokePermissionResponse;
    }
}

methods! { Streaming:
    "Watch" { "Watch": WatchRequest -> WatchResponse; }
    "Lease" { "LeaseKeepAlive": LeaseKeepAliveRequest -> LeaseKeepAliveResponse; }
    "Maintenance" { "Snapshot": SnapshotRequest -> SnapshotResponse; }
}

impl Client {
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<PutResponse, Error> {
        self.call(&PutRequest { key: key.into(), value: value.into(), ..Default::default() }).await
    }

    /// One key, linearizable.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<RangeResponse, Error> {
        self.call(&RangeRequest { key: key.into(), ..Default::default() }).await
    }

    /// All keys of `[key, end)`.
    pub async fn range(&self, key: impl Into<Bytes>, end: impl Into<Bytes>) -> Result<RangeResponse, Error> {
        self.call(&RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }).await
    }

    /// The chunks of a RangeStream.
    pub async fn range_stream(&self, request: &RangeRequest) -> Result<Receiver<RangeStreamResponse>, Error> {
        let (mut sender, receiver) = self.stream_at("/etcdserverpb.KV/RangeStream").await?;
        sender.send(request)?;
        sender.finish()?;
        Ok(receiver)
    }

    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteRangeResponse, Error> {
        self.call(&DeleteRangeRequest { key: key.into(), ..Default::default() }).await
    }

    pub async fn delete_range(
        &self,
        key: impl Into<Bytes>,
        end: impl Into<Bytes>,
    ) -> Result<DeleteRangeResponse, Error> {
        self.call(&DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }).await
    }

    pub async fn compact(&self, revision: i64) -> Result<CompactionResponse, Error> {
        self.call(&CompactionRequest { revision, physical: false }).await
    }

    /// `id` 0: the server chooses. `ttl` in seconds.
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Error> {
        self.call(&LeaseGrantRequest { id, ttl }).await
    }

    pub async fn revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        self.call(&LeaseRevokeRequest { id }).await
    }

    /// One keep-alive on a stream of its own.
    pub async fn keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let (mut sender, mut receiver) = self.stream::<LeaseKeepAliveRequest>().await?;
        sender.send(&LeaseKeepAliveRequest { id })?;
        let answer = receiver.expect().await?;
        sender.finish()?;
        Ok(answer)
    }

    pub async fn time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, Error> {
        self.call(&LeaseTimeToLiveRequest { id, keys }).await
    }

    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.call(&StatusRequest {}).await
    }

    /// `revision` 0: now.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        self.call(&HashKvRequest { revision }).await
    }

    /// The same connection as a user, by a token that the password buys.
    pub async fn log_in(&self, name: &str, password: &str) -> Result<Client, Error> {
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        let token = self.call(&request).await?.token;
        Ok(self.with_metadata("token", &token))
    }

    pub async fn add_user(&self, name: &str, password: &str) -> Result<AuthUserAddResponse, Error> {
        let request = AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() };
        self.call(&request).await
    }

    pub async fn grant_role(&self, user: &str, role: &str) -> Result<AuthUserGrantRoleResponse, Error> {
        self.call(&AuthUserGrantRoleRequest { user: user.into(), role: role.into() }).await
    }

    pub async fn add_role(&self, name: &str) -> Result<AuthRoleAddResponse, Error> {
        self.call(&AuthRoleAddRequest { name: name.into() }).await
    }

    /// Permits a role an interval of keys.
    pub async fn permit(
        &self,
        role: &str,
        kind: permission::Type,
        key: impl Into<Bytes>,
        end: impl Into<Bytes>,
    ) -> Result<AuthRoleGrantPermissionResponse, Error> {
        let perm = Permission { perm_type: kind as i32, key: key.into(), range_end: end.into() };
        self.call(&AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) }).await
    }

    pub async fn member_list(&self) -> Result<MemberListResponse, Error> {
        self.call(&MemberListRequest { linearizable: true }).await
    }
}

/// The parts of a transaction, each in one word.
pub mod op {
    use super::*;

    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> RequestOp {
        of(Request::RequestPut(PutRequest { key: key.into(), value: value.into(), ..Default::default() }))
    }

    pub fn get(key: impl Into<Bytes>) -> RequestOp {
        of(Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() }))
    }

    pub fn delete(key: impl Into<Bytes>) -> RequestOp {
        of(Request::RequestDeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() }))
    }

    pub fn delete_range(key: impl Into<Bytes>, end: impl Into<Bytes>) -> RequestOp {
        of(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..Default::default()
        }))
    }

    pub fn txn(txn: TxnRequest) -> RequestOp {
        of(Request::RequestTxn(txn))
    }

    pub fn of(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    /// The key's mod revision is this.
    pub fn unchanged(key: impl Into<Bytes>, revision: i64) -> Compare {
        Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Default::default()
        }
    }

    /// The key's version is this; 0: it is not there.
    pub fn version(key: impl Into<Bytes>, version: i64) -> Compare {
        Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Version as i32,
            key: key.into(),
            target_union: Some(TargetUnion::Version(version)),
            ..Default::default()
        }
    }
}
